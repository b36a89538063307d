"""Figure 2 and Table 15: what the masks of the sixteen types do on four axes of a questionnaire."""

from pathlib import Path

from experiments.figures import Interval, Run, finished_runs
from experiments.findings import Finding
from experiments.plots import heat
from experiments.publish import Report
from experiments.tables import markdown

AXES = ("I-E", "N-S", "F-T", "P-J")
_SPARSITY = 0.6


def report(directory: Path, folder: Path) -> Report:
    """Return the axes of all types; draw them."""
    runs = finished_runs(directory / "sixteen_types")
    random = [run for run in runs if run.method == "random"]
    types = {run.persona: run for run in runs if run.method != "random"}
    if not types:
        return Report([], [], "")
    findings = [finding(axis, types, random[-1] if random else None) for axis in AXES]
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


def finding(axis: str, types: dict[str, Run], random: Run | None) -> Finding:
    """Return how far masks move an axis to their own side, beyond what one random mask does to it."""
    own, beyond = [], []
    by_chance = 0.0 if random is None else _change(random, axis).value
    for name, run in types.items():
        side = 1 if name[AXES.index(axis)] == axis[0].lower() else -1
        own.append(side * _change(run, axis).value)
        beyond.append(side * (_change(run, axis).value - by_chance))
    change = Interval.mean(own)
    ratio = sum(run.metrics["capability/perplexity_ratio"] for run in types.values()) / len(types)
    control = Interval.mean(beyond) if random is not None else None
    return Finding(axis, f"{change.text('+.1f')} points", "points", change, control, "random", ratio, len(own))


def _change(run: Run, axis: str) -> Interval:
    return run.figure(f"questionnaire/margin_{axis}_delta")


def _label(run: Run) -> str:
    return "random" if run.method == "random" else run.persona


def _ratio(run: Run) -> str:
    return f"{run.metrics['capability/perplexity_ratio']:.3g}"
