"""Two-way choice: is the persona's answer likelier than the opposite's?"""

import re
from typing import Any

from pydantic.dataclasses import dataclass

from persona_prune.data import embedded_pairs, read_pairs
from persona_prune.evaluators.base import EvalResult, Progress
from persona_prune.likelihood import answer_lead, chat_prompt, encode_answer
from persona_prune.models import LoadedModel
from persona_prune.personas import Pair, Persona, normalise
from persona_prune.validation import STRICT, PositiveInt

_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Choice:
    """Matching against not matching answers, run through lm-eval with the chat template and no persona prompt.

    Metrics by item: ``accuracy`` (summed log-probability), ``accuracy_norm`` (per token), ``accuracy_content`` (per
    token, only where neither answer begins with yes or no), ``margin`` (per-token log-probability of matching minus not
    matching, nats), ``yes_rate`` (where one answer begins with yes and the other with no: is yes the likelier one per
    token?). A tie counts half.

    Attributes:
        path: a pair file (JSONL or CSV), or null for the persona's embedded test pairs.
        limit: use the first so many pairs; null for all.
        batch_size: prompts per batch.
    """

    path: str | None
    limit: PositiveInt | None
    batch_size: PositiveInt

    def check(self, persona: Persona) -> None:
        """Raise ValueError or OSError if the pairs cannot be read."""
        self._pairs(persona)

    def prompts(self, persona: Persona) -> set[str]:
        """Return the normalised prompts of the test pairs."""
        return {normalise(pair.prompt) for pair in self._pairs(persona)}

    def evaluate(
        self, loaded: LoadedModel, persona: Persona, dense: EvalResult | None, progress: Progress
    ) -> EvalResult:
        """Score every pair; see the class for the metrics."""
        from persona_prune.evaluators.harness import multiple_choice

        pairs = self._pairs(persona)
        lead = answer_lead(loaded.tokenizer)
        # The key alternates, so that nothing can score by preferring a position.
        items = [
            {
                "prompt": pair.prompt,
                "options": [lead + pair.matching, lead + pair.not_matching][:: 1 if i % 2 == 0 else -1],
                "gold": i % 2,
            }
            for i, pair in enumerate(pairs)
        ]
        totals = multiple_choice(loaded, items, batch_size=self.batch_size, on_batch=progress("choice", len(items)))
        samples = []
        for i, (pair, total) in enumerate(zip(pairs, totals, strict=True)):
            matching, other = total[i % 2], total[1 - i % 2]
            context = chat_prompt(loaded.tokenizer, pair.prompt)
            lengths = [
                len(encode_answer(loaded.tokenizer, context, lead + text)[1])
                for text in (pair.matching, pair.not_matching)
            ]
            samples.append(_sample(i, pair, (matching, other), (lengths[0], lengths[1])))
        return EvalResult(samples)

    def _pairs(self, persona: Persona) -> tuple[Pair, ...]:
        if self.path is None:
            pairs = embedded_pairs(persona, "test")
        else:
            pairs = persona.orient(read_pairs(self.path), embedded=False)
        return pairs[: self.limit]


def _sample(number: int, pair: Pair, totals: tuple[float, float], tokens: tuple[int, int]) -> dict[str, Any]:
    per_token = totals[0] / tokens[0], totals[1] / tokens[1]
    margin = per_token[0] - per_token[1]
    norm = _verdict(margin)
    begins = [_first_yes_no(text) for text in (pair.matching, pair.not_matching)]
    return {
        "id": number,
        "prompt": pair.prompt,
        "matching": pair.matching,
        "not_matching": pair.not_matching,
        "log_prob": list(totals),
        "tokens": list(tokens),
        "values": {
            "accuracy": _verdict(totals[0] - totals[1]),
            "accuracy_norm": norm,
            "accuracy_content": norm if begins == [None, None] else None,
            "margin": margin,
            "yes_rate": {("yes", "no"): norm, ("no", "yes"): 1 - norm}.get((str(begins[0]), str(begins[1]))),
        },
    }


def _verdict(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def _first_yes_no(text: str) -> str | None:
    match = _YES_NO.match(text)
    return match[1].lower() if match else None
