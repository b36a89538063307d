"""The margins of every item in every run, small enough to be carried inside a page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from persona_prune.report.figures import costs
from persona_prune.report.questions import EVALUATORS
from persona_prune.saved.finished_runs import Run, samples

_MOST_ITEMS = 400  # of one run
_MOST_TEXTS = 4000  # different items of all runs
_LONGEST = 300  # characters of a prompt or an answer

Text = tuple[str, str, str]
"""Prompt, the persona's answer, the other answer or answers."""


@dataclass(frozen=True)
class Items:
    """What the page embeds, and what it has to say about what is missing.

    Attributes:
        data: ``texts``, a list of `Text`; ``sets``, lists of places in it; ``arms``, one a run or dense model:
            name, cost, place in ``sets``, margins in that order (rounded to a thousandth, null where there is none).
        remarks: sentences.
    """

    data: dict[str, Any]
    remarks: Sequence[str]


def embedded_items(runs: Sequence[Run], names: Sequence[str]) -> Items:
    """Gather the margins of the runs, and of the dense model on the same items."""
    texts: dict[Text, int] = {}
    sets: dict[tuple[int, ...], int] = {}
    arms: list[dict[str, Any]] = []
    seen_dense: set[tuple[str, int, tuple[float | None, ...]]] = set()
    damaged: list[str] = []
    cut = full = 0
    for run, name in zip(runs, names):
        for evaluator in EVALUATORS:
            try:
                rows = [row for sample in samples(run, evaluator) if (row := _row(sample))]
            except ValueError as error:
                damaged.append(f"{name}: {error}.")
                continue
            cut += len(rows) > _MOST_ITEMS
            rows = rows[:_MOST_ITEMS]
            new = {text for text, _, _ in rows} - texts.keys()
            if not rows or len(texts) + len(new) > _MOST_TEXTS:
                full += bool(rows)
                continue
            places = tuple(texts.setdefault(text, len(texts)) for text, _, _ in rows)
            number = sets.setdefault(places, len(sets))
            title = name if evaluator == EVALUATORS[0] else f"{name}, {evaluator}"
            if run.method != "none":
                arms.append(_arm(title, costs(run)[0], number, [margin for _, margin, _ in rows]))
            dense = tuple(margin for _, _, margin in rows)
            if (run.model, number, dense) not in seen_dense and any(margin is not None for margin in dense):
                seen_dense.add((run.model, number, dense))
                arms.append(_arm(f"dense {run.model} on the items of {title}", "1 (dense)", number, list(dense)))
    remarks = [f"{damaged[0]} Left out, like {len(damaged) - 1} others."] if len(damaged) > 1 else damaged
    if cut:
        remarks.append(f"Of {cut} runs only the first {_MOST_ITEMS} items are here; samples/*.jsonl has all.")
    if full:
        remarks.append(f"{full} runs' items are left out: the page carries at most {_MOST_TEXTS} different ones.")
    return Items({"texts": list(texts), "sets": list(sets), "arms": arms}, remarks)


def _arm(name: str, cost: str, number: int, margins: Sequence[float | None]) -> dict[str, Any]:
    rounded = [None if margin is None else round(margin, 3) for margin in margins]
    return {"name": name, "ratio": cost, "set": number, "margins": rounded}


def _row(sample: dict[str, Any]) -> tuple[Text, float | None, float | None] | None:
    """Return an item's text, its margin and the dense model's; None if the evaluator has no margins."""
    if not isinstance(sample["values"].get("margin"), int | float):
        return None
    options, answer = sample.get("options"), sample.get("answer")
    if "matching" in sample:
        matching, other = str(sample["matching"]), str(sample["not_matching"])
    elif isinstance(options, list) and isinstance(answer, int) and answer < len(options):
        matching = str(options[answer])
        other = " / ".join(str(option) for i, option in enumerate(options) if i != answer)
    else:
        return None
    dense = (sample.get("dense_values") or {}).get("margin")
    text = (_short(sample.get("prompt", "")), _short(matching), _short(other))
    return text, _finite(sample["values"]["margin"]), _finite(dense)


def _finite(margin: float | None) -> float | None:
    """Return a margin, None if it is no number: a model that overflows has none."""
    return margin if margin is not None and math.isfinite(margin) else None


def _short(text: Any) -> str:
    whole = str(text)
    return whole if len(whole) <= _LONGEST else f"{whole[: _LONGEST - 3]}..."
