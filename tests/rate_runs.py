"""Run directories that spoke, written by hand, and ratings of them, for the tests of blind rating."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from persona_prune.rate.ballots import Ballot, Sheet, sheet
from persona_prune.saved.finished_runs import find_runs
from tests.report_runs import config, write_run


def spoken(number: int, *, persona: float = 0.8, dense: float = 0.4, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "persona": "extrovert",
        "prompt": f"What would you do on free day {number}?",
        "answer": f"I'd call everybody, {number} times.",
        "sampled_answers": [f"A party of {number}."],
        "answer_persona": persona,
        "dense_answer": f"Reading is one of {number} options.",
        "dense_sampled_answers": ["As an assistant ..."],
        "values": {"persona": persona, "expressed": 1.0},
        "dense_values": {"persona": dense, "expressed": 0.0},
    } | changes


def prompted(number: int, **changes: Any) -> dict[str, Any]:
    others = {"with_prompt_answer": f"Yay, day {number}!", "with_prompt_values": {"persona": 0.7}}
    return spoken(number, **others) | changes


def write_spoken(directory: Path, items: list[dict[str, Any]], **configuration: Any) -> Path:
    write_run(directory, config(**configuration), {"speech/judge_auc": 0.9})
    lines = "".join(json.dumps(item) + "\n" for item in items)
    (directory / "samples" / "speech.jsonl").write_text(lines)
    return directory


def asked(*directories: Path, seed: int = 42, limit: int | None = None, against: Sequence[str] = ()) -> Sheet:
    return sheet(find_runs(directories).runs, seed=seed, limit=limit, against=against)


def choice_of(ballot: Ballot, who: str) -> str:
    """Return the choice that means the persona's or the other's answer."""
    if who not in ("persona", "other"):
        return who
    return "1" if ballot.persona_first == (who == "persona") else "2"


def say(ballots: Sequence[Ballot], *who: str) -> dict[str, str]:
    return {ballot.id: choice_of(ballot, one) for ballot, one in zip(ballots, who)}


def export(path: Path, sheet: Sheet, choices: dict[str, str], rater: str = "", **changes: Any) -> Path:
    """Write what the page would export."""
    ballots = [{"id": ballot, "choice": choice, "seconds": 2.5} for ballot, choice in choices.items()]
    content = {"page": sheet.digest, "rater": rater, "seed": sheet.seed, "ballots": ballots} | changes
    path.write_text(json.dumps(content))
    return path
