"""Does the switch to a persona succeed? For the tables of sparsity and of layer-aware masks."""

from collections.abc import Iterable, Mapping

import numpy as np

from experiments.figures import Difference, Interval, Run

POLES = {
    "I-E": ("introvert", "extrovert"),
    "N-S": ("intuitive", "sensor"),
    "F-T": ("feeler", "thinker"),
    "J-P": ("judger", "perceiver"),
}


def switched(run: Run, arm: str = "") -> float:
    """Return 1 if the persona's answers are the likelier ones on the whole (margin above zero), else 0.

    Args:
        run: a run with the choice evaluator.
        arm: whose margin: the run's own, ``dense/``, or a control's, ``opposite/``.
    """
    return float(run.metrics[f"{arm}choice/margin"] > 0)


def rate(runs: Iterable[Run], arm: str = "") -> Interval:
    """Return the share of personas to which the switch succeeds, with its interval over personas."""
    return Interval.mean([switched(run, arm) for run in runs])


def apart(masks: Mapping[str, Run]) -> dict[tuple[str, str], float]:
    """Return, for every question of every axis of which both poles are there, how far their masks part the margin.

    That is the mean change against dense over both poles, each counted towards its own answers: what both masks do
    alike cancels, so that the two are controls of each other. The dense model is at zero, and so is any mask that
    does not know which pole it was made for.

    Args:
        masks: persona -> run.
    """
    found = {}
    for axis, poles in POLES.items():
        if not all(pole in masks for pole in poles):
            continue
        one, other = ({s["prompt"]: s for s in masks[pole].items("choice").samples} for pole in poles)
        for prompt in (prompt for prompt in one if prompt in other):  # in order, so that intervals come out the same
            moved = [s["values"]["margin"] - s["dense_values"]["margin"] for s in (one[prompt], other[prompt])]
            found[axis, prompt] = float(np.mean(moved))
    return found


def difference(first: Mapping[str, Run], second: Mapping[str, Run]) -> Difference | None:
    """Return how much further some masks part the poles than others; None where no axis is complete in both."""
    ours, theirs = apart(first), apart(second)
    shared = [question for question in ours if question in theirs]
    return Difference.mean([ours[question] - theirs[question] for question in shared]) if shared else None


def worst_ratio(runs: Iterable[Run]) -> float:
    """Return the largest perplexity ratio."""
    return max(run.metrics["capability/perplexity_ratio"] for run in runs)
