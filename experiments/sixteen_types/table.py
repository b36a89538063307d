"""Figure 2 and Table 15: what the masks of the sixteen types do on four axes of a questionnaire."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.figures import Difference, Interval, Run, finished_runs, last_method
from experiments.findings import Finding, doubts_of
from experiments.plots import heat
from experiments.publish import Report
from experiments.switching import worst_ratio
from experiments.tables import markdown

AXES = ("I-E", "N-S", "F-T", "P-J")


def report(directory: Path, folder: Path) -> Report:
    """Return the axes of all types; draw them."""
    runs = finished_runs(directory / "sixteen_types")
    random = [run for run in runs if run.method == "random"]
    types = {run.persona: run for run in last_method([run for run in runs if run.method != "random"])}
    if not types:
        return Report([], [], "")
    findings = [found for found in (finding(axis, types) for axis in AXES) if found is not None]
    used = [*types.values(), *random[-1:]]
    rows = [[_label(run), *(_change(run, axis).text("+.1f") for axis in AXES), _ratio(run)] for run in used]
    dense = [used[0].figure(f"dense/questionnaire/margin_{axis}") for axis in AXES]
    rows.insert(0, ["dense (margin)", *(found.text("+.1f") for found in dense), ""])
    heat(
        folder / "types.svg",
        [_label(run) for run in used],
        AXES,
        [[_change(run, axis).value for axis in AXES] for run in used],
        "change of the margin, points",
    )
    text = markdown(["mask", *(f"{axis}, change" for axis in AXES), "perplexity ratio"], rows)
    return Report(used, findings, f"![Change of every axis under every mask](types.svg)\n\n{text}")


def finding(axis: str, types: Mapping[str, Run]) -> Finding | None:
    """Return how far the masks of types of both sides part an axis, statement by statement; None for one side only.

    Every statement's change is counted towards the type's own side and averaged within each side, so that what all
    masks do alike cancels: masks that know nothing of the axis are at zero.
    """
    sides: dict[float, list[dict[Any, float]]] = {1.0: [], -1.0: []}
    for name, run in types.items():
        side = 1.0 if name[AXES.index(axis)] == axis[0].lower() else -1.0
        sides[side].append(changes(run, axis))
    if not all(sides.values()):
        return None
    statements = set.intersection(*(set(found) for side in sides.values() for found in side))
    parted = [
        float(np.mean([side * np.mean([found[statement] for found in runs]) for side, runs in sides.items()]))
        for statement in sorted(statements)
    ]
    change = Difference.mean(parted)
    ratio, doubts = worst_ratio(types.values()), doubts_of(types.values())
    return Finding(axis, f"{change.text('+.1f')} points", "points", change, ratio, len(parted), doubts=doubts)


def changes(run: Run, axis: str) -> dict[Any, float]:
    """Return statement -> the change of its margin against the dense model, for the statements of one axis."""
    key = f"margin_{axis}"
    samples = run.items("questionnaire").samples
    return {s["id"]: s["values"][key] - s["dense_values"][key] for s in samples if s["values"][key] is not None}


def _change(run: Run, axis: str) -> Interval:
    return run.figure(f"questionnaire/margin_{axis}_delta")


def _label(run: Run) -> str:
    return "random" if run.method == "random" else run.persona


def _ratio(run: Run) -> str:
    return f"{run.metrics['capability/perplexity_ratio']:.3g}"
