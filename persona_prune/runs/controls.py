"""The masks that a persona's mask must beat, and which of them count: not those that wreck the model."""

import logging
from collections.abc import Iterator, Sequence

from persona_prune.evaluators.results import EvalResult
from persona_prune.evaluators.statistics import average
from persona_prune.masks.mask import Mask, dropped_like
from persona_prune.methods.magnitude import magnitude_like
from persona_prune.methods.selection import Selection
from persona_prune.models.loaded import LoadedModel
from persona_prune.report.verdict import WRECKED
from persona_prune.runs.builder import Builder
from persona_prune.runs.built import Built
from persona_prune.runs.plan import Plan

log = logging.getLogger(__name__)

Results = dict[str, EvalResult]
"""Evaluator -> what it found on one model."""


def control_masks(plan: Plan, loaded: LoadedModel, builder: Builder, built: Built) -> Iterator[tuple[str, list[Mask]]]:
    """Yield the masks that ``built`` must beat, by name: what the plan asks for and the method can give.

    Args:
        plan: of the run.
        loaded: the dense model.
        builder: what ``built`` was built by (`Builder.for_controls`).
        built: the persona.
    """
    method, mask = plan.method, built.mask
    if mask is None or method.is_control:
        return
    for name in plan.controls:
        if name == "random":
            seeds = range(plan.seed + 1, plan.seed + 1 + plan.control_seeds)
            yield name, [dropped_like(mask, seed) for seed in seeds]
        elif name == "magnitude":
            yield name, [magnitude_like(mask, loaded.linears)]
        elif not isinstance(method, Selection):
            log.info("control %s: a saved mask can't be built again from other pairs; left out", name)
        elif name == "opposite" and built.opposite is not None:
            yield name, [built.opposite]
        else:
            other = builder.mask(method, name).mask
            assert other is not None
            yield name, [other]


def average_of_sound(found: Sequence[Results]) -> tuple[Results, int]:
    """Return the average of a control's masks that don't wreck the model, and how many do; of all if all do."""
    sound = [
        results
        for results in found
        if all(result.metrics.get("perplexity_ratio", 1.0) <= WRECKED for result in results.values())
    ]
    averaged = {evaluator: average([results[evaluator] for results in sound or found]) for evaluator in found[0]}
    return averaged, len(found) - len(sound)
