"""Table 8: what the number of calibration pairs changes."""

from pathlib import Path

from experiments.figures import Difference, Interval, Run, finished_runs
from experiments.findings import CONTROLS, Control, Finding, doubts_of
from experiments.plots import lines
from experiments.publish import Report
from experiments.tables import runs_table
from persona_prune.statistics import item_values

_SMALL, _ENOUGH = 5, 20


def report(directory: Path, folder: Path) -> Report:
    """Return the gain by number of pairs; draw it."""
    runs = finished_runs(directory / "calibration_size")
    by_size: dict[int, dict[str, Run]] = {}
    for run in sorted(runs, key=size):
        by_size.setdefault(size(run), {})[run.persona] = run
    if not by_size:
        return Report([], [], "")
    gains = {pairs: Interval.mean(change(masks)) for pairs, masks in by_size.items()}
    series = {"masked - dense": gains}
    for name in ("random", "opposite"):
        found = {pairs: change(masks, f"{name}_values") for pairs, masks in by_size.items()}
        if any(found.values()):
            series[f"masked - {name}"] = {pairs: Interval.mean(values) for pairs, values in found.items() if values}
    lines(folder / "pairs.svg", series, "calibration pairs", "margin, nats")
    used = [run for masks in by_size.values() for run in masks.values()]
    text = f"![Gain by number of pairs](pairs.svg)\n\n{runs_table(used, label=_label)}"
    return Report(used, _findings(by_size), text, varied=("calibration.limit",))


def change(masks: dict[str, Run], reference: str = "dense_values") -> list[float]:
    """Return, item by item of all personas, the margin minus that of a reference arm; nothing without that arm."""
    samples = [sample for run in masks.values() for sample in run.items("choice").samples]
    return [s["values"]["margin"] - s[reference]["margin"] for s in samples if reference in s]


def size(run: Run) -> int:
    """Return how many pairs a run could calibrate on.

    Raises:
        ValueError: it took all there are, so that the run does not tell.
    """
    limit = run.config["calibration"]["limit"]
    if limit is None:
        raise ValueError(f"{run.path}: calibrated on all pairs; give their number in SIZES instead of null")
    return int(limit)


def _findings(by_size: dict[int, dict[str, Run]]) -> list[Finding]:
    enough = by_size.get(_ENOUGH)
    if not enough:
        return []
    ratio = _worst_ratio(enough, "")
    controls = []
    for name in CONTROLS:
        values = change(enough, f"{name}_values")
        if values:
            controls.append(Control(name, Difference.mean(values), _worst_ratio(enough, f"{name}/")))
    values = change(enough)
    gain = Difference.mean(values)
    told = gain.text("+.3f")
    findings = [
        Finding("gain", told, "nats", gain, ratio, len(values), controls, True, doubts=doubts_of(enough.values()))
    ]
    small, values = by_size.get(_SMALL, {}), []
    for persona in enough.keys() & small.keys():
        few, many = (item_values(runs[persona].items("choice").samples, "margin") for runs in (small, enough))
        values += [many[item] - few[item] for item in many.keys() & few.keys()]
    if values:
        more = Difference.mean(values)
        ratio = max(ratio, _worst_ratio(small, ""))
        findings.append(Finding("more_than_5", more.text("+.3f"), "nats, 20 - 5", more, ratio, len(values)))
    return findings


def _worst_ratio(masks: dict[str, Run], arm: str) -> float:
    return max(run.metrics[f"{arm}capability/perplexity_ratio"] for run in masks.values())


def _label(run: Run) -> str:
    return f"{run.label}, {size(run)} pairs"
