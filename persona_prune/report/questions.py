"""Runs that answer the same question: one model, one persona, the same items."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from persona_prune.report.run_settings import numbered
from persona_prune.saved.finished_runs import Run

EVALUATORS = ("choice", "multiple_choice")
"""Evaluators whose margin and accuracy measure alignment, the usual one first."""


@dataclass(frozen=True)
class Group:
    """Runs that can be compared figure by figure, as numbers of the page's list of runs.

    Attributes:
        label: persona, model where there are several, and a number where only the items differ.
        evaluator: what asked.
        members: numbers of the runs.
    """

    label: str
    evaluator: str
    members: Sequence[int]


def groups(runs: Sequence[Run], evaluators: Sequence[str] = EVALUATORS, figure: str = "margin") -> list[Group]:
    """Return the runs by question, in order of appearance; those that none of ``evaluators`` asked are in none.

    Args:
        runs: all that are compared.
        evaluators: the first that a run has the ``figure`` of counts.
        figure: what they measure.
    """
    models = {run.model for run in runs}
    found: dict[tuple[str, str, str], list[int]] = {}
    for number, run in enumerate(runs):
        for evaluator in evaluators:
            if f"{evaluator}/{figure}" in run.metrics:
                settings = {k: v for k, v in run.config["evaluator"].get(evaluator, {}).items() if k != "batch_size"}
                label = f"{run.persona}, {run.model}" if len(models) > 1 else run.persona
                items = json.dumps(settings, sort_keys=True, default=str)
                found.setdefault((label, evaluator, items), []).append(number)
                break
    names = numbered([label for label, _, _ in found])
    return [Group(name, evaluator, members) for name, ((_, evaluator, _), members) in zip(names, found.items())]
