"""What is asked of raters: two answers to a prompt, the persona's among them, on sides that a seed decides."""

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from persona_prune.common.conf_files import config_directory
from persona_prune.common.validation import neighbours
from persona_prune.personas.pairs import normalise
from persona_prune.personas.persona import about
from persona_prune.saved.finished_runs import Run, samples

EVALUATOR = "speech"
_USUAL = ("dense", "with_prompt")
_ANSWER = "_answer"
_ID = 12


@dataclass(frozen=True)
class Ballot:
    """A question to a rater.

    Attributes:
        id: names the ballot on the page; it does not depend on the sides.
        run: number of the run.
        opponent: whose answer stands beside the persona's: dense, with_prompt, a control.
        about: one sentence on the persona.
        prompt: what was asked.
        persona: the persona's greedy answer.
        other: the opponent's.
        persona_first: whether the persona's answer is answer 1.
        judged: the judges' mean probability of the persona over all answers to the prompt, the persona's and the
            opponent's; None where one is missing.
    """

    id: str
    run: int
    opponent: str
    about: str
    prompt: str
    persona: str
    other: str
    persona_first: bool
    judged: tuple[float, float] | None

    @property
    def shown(self) -> dict[str, str]:
        """What the page gets: nothing in it says whose answer is whose."""
        first, second = (self.persona, self.other) if self.persona_first else (self.other, self.persona)
        return {"id": self.id, "about": self.about, "prompt": self.prompt, "first": first, "second": second}


@dataclass(frozen=True)
class Sheet:
    """Everything that is asked of a rater.

    Attributes:
        ballots: in the order in which they are asked.
        same: (run, opponent) -> prompts that are not asked, as both sides gave the same answer.
        seed: decides prompts, order and sides.
    """

    ballots: Sequence[Ballot]
    same: Mapping[tuple[int, str], int]
    seed: int

    @property
    def digest(self) -> str:
        """Digest of what the page shows: ratings of another page are refused by it."""
        content = json.dumps([self.seed, [ballot.shown for ballot in self.ballots]])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def sheet(runs: Sequence[Run], *, seed: int, limit: int | None, against: Sequence[str]) -> Sheet:
    """Return the ballots of ``runs``: the same ones for the same samples and settings.

    Args:
        runs: finished runs that spoke.
        seed: decides prompts, order and sides. Of a run and an opponent, the persona is first on half of the ballots.
        limit: so many prompts of each run at most, drawn by the seed; runs with the same prompts get the same ones.
        against: opponents; none for dense, and the prompt where it spoke.

    Raises:
        ValueError: a run has no speech samples or damaged ones, an opponent said nothing, or there is nothing to ask.
    """
    ballots: list[Ballot] = []
    same: dict[tuple[int, str], int] = {}
    for number, run in enumerate(runs):
        items = _items(run)
        drawn = sorted(items, key=lambda item: _key(seed, item["prompt"], item.get("id")))[:limit]
        for opponent in _opponents(run, items, against):
            asked = [item for item in drawn if item["answer"].split() != item[f"{opponent}{_ANSWER}"].split()]
            same[number, opponent] = len(drawn) - len(asked)
            sides = random.Random(f"{seed}:{number}:{opponent}")
            first = set(sides.sample(range(len(asked)), (len(asked) + sides.randrange(2)) // 2))
            ballots += [_ballot(seed, number, run, opponent, item, place in first) for place, item in enumerate(asked)]
    if not ballots:
        raise ValueError("nothing to rate: the persona and the others give the same answers to all prompts")
    return Sheet(_spread(ballots, seed), same, seed)


def _items(run: Run) -> list[dict[str, Any]]:
    try:
        items = list(samples(run, EVALUATOR))
    except ValueError as error:
        raise ValueError(f"{run.path}: {error}") from None
    if not items:
        raise ValueError(f"{run.path}: no samples/{EVALUATOR}.jsonl; repeat the run with evaluator={EVALUATOR}")
    for line, item in enumerate(items, start=1):
        if not all(isinstance(item.get(key), str) for key in ("prompt", "answer")):
            raise ValueError(f"{run.path}: samples/{EVALUATOR}.jsonl: line {line} has no prompt or no answer")
    return items


def _opponents(run: Run, items: Sequence[Mapping[str, Any]], against: Sequence[str]) -> list[str]:
    there = [
        key.removesuffix(_ANSWER)
        for key in items[0]
        if key.endswith(_ANSWER) and all(isinstance(item.get(key), str) for item in items)
    ]
    for name in against:
        if name not in there:
            raise ValueError(f"{run.path}: nothing was said by {name!r}; {neighbours(name, there)}")
    wanted = list(dict.fromkeys(against)) or [name for name in _USUAL if name in there]
    if not wanted:
        raise ValueError(f"{run.path}: dense did not speak, name others with --against; {neighbours('dense', there)}")
    return wanted


def _ballot(seed: int, number: int, run: Run, opponent: str, item: Mapping[str, Any], persona_first: bool) -> Ballot:
    ours, theirs = (_judged(item.get(key)) for key in ("values", f"{opponent}_values"))
    return Ballot(
        id=_key(seed, number, opponent, item["prompt"], item.get("id"))[:_ID],
        run=number,
        opponent=opponent,
        about=_about(run.config["persona"], item.get("persona")),
        prompt=item["prompt"],
        persona=item["answer"],
        other=item[f"{opponent}{_ANSWER}"],
        persona_first=persona_first,
        judged=None if ours is None or theirs is None else (ours, theirs),
    )


def _judged(values: object) -> float | None:
    value = values.get("persona") if isinstance(values, dict) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _about(node: Mapping[str, Any], shown: str | None) -> str:
    """Return a sentence on the persona that was to be heard: of a mix, the part that the prompt belongs to."""
    for name in node.get("weights") or ():
        path = config_directory() / "persona" / f"{name}.yaml"
        part = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        flip = bool(part.get("flip")) != bool(node.get("flip"))
        if part and shown == (part["opposite"] or f"not_{name}" if flip else name):
            return about(name, part["description"], flip=flip)
    return about(str(node["name"]), str(node.get("description") or node["name"]), flip=bool(node.get("flip")))


def _spread(ballots: Sequence[Ballot], seed: int) -> list[Ballot]:
    """Return the ballots in rounds of the same order of prompts.

    A persona's answer stands beside several opponents': who remembers it would know it, so those of one prompt are as
    far from each other as can be.
    """
    by_prompt: dict[str, list[Ballot]] = {}
    for ballot in sorted(ballots, key=lambda one: _key(seed, one.id)):
        by_prompt.setdefault(normalise(ballot.prompt), []).append(ballot)
    rounds = max(len(group) for group in by_prompt.values())
    return [group[turn] for turn in range(rounds) for group in by_prompt.values() if turn < len(group)]


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
