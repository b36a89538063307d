"""Table 8: what the number of calibration pairs changes."""

from pathlib import Path

from experiments.figures import Interval, Run, finished_runs
from experiments.findings import Finding
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
    against = {pairs: Interval.mean(change(masks, "random_values")) for pairs, masks in by_size.items()}
    series = {"masked - dense": gains, "masked - random mask": against}
    lines(folder / "pairs.svg", series, "calibration pairs", "margin, nats")
    used = [run for masks in by_size.values() for run in masks.values()]
    text = f"![Gain by number of pairs](pairs.svg)\n\n{runs_table(used, label=_label)}"
    return Report(used, _findings(by_size), text)


def change(masks: dict[str, Run], reference: str = "dense_values") -> list[float]:
    """Return, item by item of all personas, the margin minus that of a reference arm."""
    found = []
    for run in masks.values():
        for sample in run.items("choice").samples:
            found.append(sample["values"]["margin"] - sample[reference]["margin"])
    return found


def size(run: Run) -> int:
    """Return how many pairs a run calibrated on."""
    return int(run.config["calibration"]["limit"])


def _findings(by_size: dict[int, dict[str, Run]]) -> list[Finding]:
    enough = by_size.get(_ENOUGH)
    if not enough:
        return []
    ratio = max(run.metrics["capability/perplexity_ratio"] for run in enough.values())
    gain, control = Interval.mean(change(enough)), Interval.mean(change(enough, "random_values"))
    findings = [Finding("gain", gain.text("+.3f"), "nats", gain, control, "random", ratio, len(change(enough)))]
    small = by_size.get(_SMALL)
    if small:
        values = []
        for persona in enough.keys() & small.keys():
            few, many = (item_values(runs[persona].items("choice").samples, "margin") for runs in (small, enough))
            values += [many[item] - few[item] for item in many.keys() & few.keys()]
        more = Interval.mean(values)
        findings.append(Finding("more_than_5", more.text("+.3f"), "nats, 20 - 5", more, None, "", ratio, len(values)))
    return findings


def _label(run: Run) -> str:
    return f"{run.label}, {size(run)} pairs"
