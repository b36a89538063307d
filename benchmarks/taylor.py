"""Contrastive Taylor: gradients of the calibration pairs' objective by every maskable weight."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

from torch import Tensor

from benchmarks.measure import Arm, exactly, in_child, interleaved, ratio
from benchmarks.rows import Row
from benchmarks.setting import BATCH, Setting
from benchmarks.shapes import SHAPES
from benchmarks.signature import bare_forward
from persona_prune.calibration import gradients, objectives
from persona_prune.calibration.gradients import Sketch

KINDS = {"vectors (method.rank=4)": 4, "exact": None}


def collector(setting: Setting, rank: int | None) -> AbstractContextManager[Mapping[str, Tensor | Sketch]]:
    """Return the context in which backward passes are collected, as `gradient_building` chooses it."""
    if rank is None:
        return gradients.weight_gradients(setting.linears)
    return gradients.gradient_sketches(setting.loaded.model, setting.linears, rank=rank, seed=0)


def measure(setting: Setting) -> list[Row]:
    """Compare with one bare forward pass over the same pairs; and the peak memory with what has to be held."""
    rows = setting.rows(setting.pairs())
    parts = [[rows[i] for i in part] for part in setting.slices(len(rows))]
    objective = objectives.and_own(objectives.logistic_margin, 0.1)

    def backward(number: int) -> None:
        gradients.add_gradient(
            setting.loaded.model, parts[number], objective, weight=1.0, pad_id=setting.pad, batch_size=BATCH // 2
        )

    bare_forward(setting, parts[0][:2], BATCH)
    arms = {
        "product": Arm(backward, lambda: collector(setting, None)),
        "floor": Arm(lambda number: bare_forward(setting, parts[number], BATCH)),
    }
    seconds = interleaved(arms, setting.rounds, setting.device)
    found = Row(
        "taylor",
        f"contrastive_taylor, gradient of {len(rows)} pairs",
        "product / bare forward over the pairs",
        ratio(seconds["product"], seconds["floor"]),
        at_most=4.0,
        detail={"seconds": seconds},
    )
    # A model of a shape is not loaded from anywhere: its memory is that of making it.
    return [found, *([] if setting.model in SHAPES else [_peak(setting, label) for label in KINDS])]


def _peak(setting: Setting, label: str) -> Row:
    """Measure the memory of one gradient in a process of its own."""
    child = in_child("benchmarks.peaks", "taylor", setting.model, setting.dtype, label, *(["quick"] * setting.quick))
    what = f"contrastive_taylor, peak memory, {label}"
    # The sums over batches have to be somewhere; the exact ones are as large as the weights.
    needed = sum(child[part] for part in ("weights_mb", "activations_mb", "largest_gradient_mb", "sums_mb"))
    sums = "sums" if KINDS[label] is None else "sketches"
    against = f"{child['used_mb']:.0f} MB / weights, activations, a layer's gradient, and the {sums}"
    return Row("taylor", what, against, exactly(child["used_mb"] / needed), at_most=1.0, detail=child)
