"""Two-way choice: is the persona's answer likelier than the opposite's?"""

import math
import re
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from persona_prune.common.progress import Progress
from persona_prune.common.validation import STRICT, PositiveInt
from persona_prune.evaluators.base import AtOnce
from persona_prune.evaluators.results import EvalResult
from persona_prune.models.chat_text import answer_lead, chat_prompt, encode_answer
from persona_prune.models.loaded import LoadedModel
from persona_prune.personas.pair_files import embedded_pairs, read_pairs
from persona_prune.personas.pairs import Pair, normalise
from persona_prune.personas.persona import AnyPersona
from persona_prune.personas.splits import Split, part_of

_BY_PART = ("accuracy", "accuracy_norm", "margin")
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Choice(AtOnce):
    """Matching against not matching answers, run through lm-eval with the chat template and no persona prompt.

    Metrics by item: ``accuracy`` (summed log-probability), ``accuracy_norm`` (per token), ``accuracy_content`` (per
    token, only where neither answer begins with yes or no), ``margin`` (per-token log-probability of matching minus not
    matching, nats), ``matching_log_prob`` (per token: a margin that grows while this falls is an opposite gone, not a
    persona found), ``yes_rate`` (where one answer begins with yes and the other with no: is yes the likelier one per
    token?), ``shorter_rate`` (where one answer has fewer characters: is it the likelier one in sum?). A tie counts
    half. ``moved_away``: against the dense model, did this item's margin fall? Two scores need no model and say what a
    shortcut would get: ``shortest`` (always take the shorter answer) and ``always_yes`` (where ``yes_rate`` applies).
    For a mix of personas also ``accuracy_<persona>`` and so on, over the items of each.

    Attributes:
        path: a pair file (JSONL or CSV), or null for the persona's embedded test pairs.
        split: take that part of the file only (`data.split_of`); null for all.
        limit: use the first so many pairs (of every part of a mix); null for all.
        batch_size: prompts per batch.
    """

    measures_alignment: ClassVar[bool] = True

    path: str | None
    split: Split | None
    limit: PositiveInt | None
    batch_size: PositiveInt

    def __post_init__(self) -> None:
        if self.split is not None and self.path is None:
            raise ValueError("split takes a part of a file: give evaluator.choice.path, or leave it null")

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError or OSError if the pairs cannot be read."""
        self._pairs(persona)

    def prompts(self, persona: AnyPersona) -> set[str]:
        """Return the normalised prompts of the test pairs."""
        return {normalise(pair.prompt) for _, pair in self._pairs(persona)}

    def identity(self, persona: AnyPersona) -> object:
        """Return batch size and pairs."""
        return [self.batch_size, [[who, p.prompt, p.matching, p.not_matching] for who, p in self._pairs(persona)]]

    def evaluate(
        self, loaded: LoadedModel, persona: AnyPersona, dense: EvalResult | None, progress: Progress
    ) -> EvalResult:
        """Score every pair; see the class for the metrics."""
        from persona_prune.evaluators.lm_eval_bridge import multiple_choice

        pairs = self._pairs(persona)
        lead = answer_lead(loaded.tokenizer)
        # The key alternates, so that nothing can score by preferring a position.
        items = [
            {
                "prompt": pair.prompt,
                "options": [lead + pair.matching, lead + pair.not_matching][:: 1 if i % 2 == 0 else -1],
                "gold": i % 2,
            }
            for i, (_, pair) in enumerate(pairs)
        ]
        totals = multiple_choice(loaded, items, batch_size=self.batch_size, on_batch=progress("choice", len(items)))
        before = {sample["id"]: sample["values"]["margin"] for sample in dense.samples} if dense else {}
        samples = []
        for i, ((who, pair), total) in enumerate(zip(pairs, totals, strict=True)):
            matching, other = total[i % 2], total[1 - i % 2]
            context = chat_prompt(loaded.tokenizer, pair.prompt, loaded.before(pair.prompt))
            lengths = [
                len(encode_answer(loaded.tokenizer, context, lead + text)[1])
                for text in (pair.matching, pair.not_matching)
            ]
            samples.append(_sample(i, pair, (matching, other), (lengths[0], lengths[1])))
            values = samples[-1]["values"]
            values["moved_away"] = _moved_away(values["margin"], before[i]) if i in before else None
            if len(persona.parts) > 1:
                for part, _ in persona.parts:
                    values |= {f"{key}_{part.shown}": values[key] if part.shown == who else None for key in _BY_PART}
        return EvalResult(samples)

    def _pairs(self, persona: AnyPersona) -> list[tuple[str, Pair]]:
        """Return the pairs, each with the name of the persona it shows."""
        if self.path is None:
            parts = [part for part, _ in persona.parts]
            return [(part.shown, pair) for part in parts for pair in embedded_pairs(part, "test")[: self.limit]]
        pairs = persona.orient(part_of(read_pairs(self.path), self.split, self.path), embedded=False)
        return [(persona.name, pair) for pair in pairs[: self.limit]]


def _sample(number: int, pair: Pair, totals: tuple[float, float], tokens: tuple[int, int]) -> dict[str, Any]:
    per_token = totals[0] / tokens[0], totals[1] / tokens[1]
    margin = per_token[0] - per_token[1]
    in_sum, norm = _verdict(totals[0] - totals[1]), _verdict(margin)
    longer = len(pair.matching) - len(pair.not_matching)  # in characters
    begins = _first_yes_no(pair.matching), _first_yes_no(pair.not_matching)
    always_yes = float(begins[0] == "yes") if set(begins) == {"yes", "no"} else None
    return {
        "id": number,
        "prompt": pair.prompt,
        "matching": pair.matching,
        "not_matching": pair.not_matching,
        "log_prob": list(totals),
        "tokens": list(tokens),
        "values": {
            "accuracy": in_sum,
            "accuracy_norm": norm,
            "accuracy_content": norm if begins == (None, None) else None,
            "margin": margin,
            "matching_log_prob": per_token[0],
            "yes_rate": None if always_yes is None else norm if always_yes else 1 - norm,
            "shorter_rate": None if longer == 0 else 1 - in_sum if longer > 0 else in_sum,
            "shortest": _verdict(-longer),
            "always_yes": always_yes,
        },
    }


def _verdict(difference: float) -> float:
    if math.isnan(difference):
        return math.nan  # neither answer is the likelier one
    return 0.5 if difference == 0 else float(difference > 0)


def _moved_away(margin: float, before: float) -> float:
    return math.nan if math.isnan(margin - before) else float(margin < before)


def _first_yes_no(text: str) -> str | None:
    match = _YES_NO.match(text)
    return match[1].lower() if match else None
