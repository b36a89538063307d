"""Table 8: what the number of calibration pairs changes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.figures import Difference, Interval, Run, finished_runs, last_method
from experiments.findings import CONTROLS, Control, Finding, doubts_of
from experiments.plots import lines
from experiments.publish import Report
from experiments.tables import runs_table

_SMALL, _ENOUGH = 5, 20


def report(directory: Path, folder: Path) -> Report:
    """Return the gain by number of pairs; draw it."""
    runs = last_method(finished_runs(directory / "calibration_size"))
    by_size: dict[int, dict[str, Run]] = {}
    for run in sorted(runs, key=size):
        by_size.setdefault(size(run), {})[run.persona] = run
    if not by_size:
        return Report([], [], "")
    gains = {pairs: Interval.mean(list(change(masks).values())) for pairs, masks in by_size.items()}
    series = {"masked - dense": gains}
    for name in ("random", "opposite"):
        found = {pairs: change(masks, f"{name}_values") for pairs, masks in by_size.items()}
        if any(found.values()):
            shown = {pairs: Interval.mean(list(values.values())) for pairs, values in found.items() if values}
            series[f"masked - {name}"] = shown
    lines(folder / "pairs.svg", series, "calibration pairs", "margin, nats")
    used = [run for masks in by_size.values() for run in masks.values()]
    text = f"![Gain by number of pairs](pairs.svg)\n\n{runs_table(used, label=_label)}"
    return Report(used, _findings(by_size), text, varied=("calibration.limit",))


def change(masks: Mapping[str, Run], reference: str = "dense_values") -> dict[str, float]:
    """Return, by question, the margin minus that of a reference arm; nothing without that arm.

    Opposite poles are asked the same questions, and the opposite's mask of the one is the other's own: a question
    counts once, with the mean over the personas that were asked it.
    """
    found: dict[str, list[float]] = {}
    for run in masks.values():
        for sample in run.items("choice").samples:
            if reference in sample:
                moved = sample["values"]["margin"] - sample[reference]["margin"]
                found.setdefault(sample["prompt"], []).append(moved)
    return {prompt: float(np.mean(moved)) for prompt, moved in found.items()}


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
        values = list(change(enough, f"{name}_values").values())
        if values:
            controls.append(Control(name, Difference.mean(values), _worst_ratio(enough, f"{name}/")))
    values = list(change(enough).values())
    gain = Difference.mean(values)
    told = gain.text("+.3f")
    findings = [
        Finding("gain", told, "nats", gain, ratio, len(values), controls, True, doubts=doubts_of(enough.values()))
    ]
    small = {persona: run for persona, run in by_size.get(_SMALL, {}).items() if persona in enough}
    few, many = change(small), change({persona: enough[persona] for persona in small})
    values = [many[prompt] - few[prompt] for prompt in many if prompt in few]
    if values:
        more = Difference.mean(values)
        ratio = max(ratio, _worst_ratio(small, ""))
        doubts = doubts_of(enough.values())
        findings.append(
            Finding("more_than_5", more.text("+.3f"), "nats, 20 - 5", more, ratio, len(values), doubts=doubts)
        )
    return findings


def _worst_ratio(masks: dict[str, Run], arm: str) -> float:
    return max(run.metrics[f"{arm}capability/perplexity_ratio"] for run in masks.values())


def _label(run: Run) -> str:
    return f"{run.label}, {size(run)} pairs"
