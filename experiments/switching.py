"""Does the switch to a persona succeed? Shares over personas, for the tables of sparsity and of layer-aware masks."""

from collections.abc import Iterable

from experiments.figures import Interval, Run


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


def gain(runs: Iterable[Run], arm: str) -> Interval:
    """Return the success rate of the masks minus that of another arm, paired by persona."""
    return Interval.mean([switched(run) - switched(run, arm) for run in runs])


def ratio(runs: Iterable[Run]) -> float:
    """Return the mean perplexity ratio."""
    found = [run.metrics["capability/perplexity_ratio"] for run in runs]
    return sum(found) / len(found)
