"""Table 12: attention at 0.6 and MLP at 0.3, against 0.6 throughout."""

from pathlib import Path

from experiments.figures import Run, by_persona, finished_runs, paired
from experiments.findings import Finding, doubts_of
from experiments.publish import Report
from experiments.switching import apart, difference, rate, worst_ratio
from experiments.tables import markdown, percent, runs_table

_LIGHTER = 0.4  # the uniform sparsity of the sweep that drops as many weights as the layer-aware masks (37.5% here)


def report(directory: Path, folder: Path) -> Report:
    """Return success rates of uniform and layer-aware masks."""
    aware = by_persona(finished_runs(directory / "layer_aware"), "wanda", 0.6)
    swept = finished_runs(directory / "sparsity")
    uniform, lighter = (by_persona(swept, "wanda", sparsity) for sparsity in (0.6, _LIGHTER))
    shared = [name for name in aware if name in uniform]
    if not shared:
        return Report([], [], "")
    ours, theirs = ([masks[name] for name in shared] for masks in (aware, uniform))
    findings = []
    for claim, other in (("layer_aware", uniform), ("as_many", lighter)):
        further = difference(aware, other)
        if further is not None:
            both = [masks[name] for name in shared if name in other for masks in (other, aware)]
            rates = [percent(rate(runs)) for runs in (both[::2], both[1::2])]
            told = f"{rates[0]} to {rates[1]} (dense {100 * rate(both, 'dense/').value:.0f}%)"
            items = len(apart(aware))
            findings.append(Finding(claim, told, "nats", further, worst_ratio(both), items, doubts=doubts_of(ours)))
    rows = []
    for name in shared:
        margin = paired(aware[name], uniform[name], "choice", "margin")
        dropped = [f"{run.metrics['mask/sparsity']:.1%}" for run in (uniform[name], aware[name])]
        rows.append([name, *dropped, margin.text("+.2f") if margin else "other questions"])
    text = [
        markdown(["pole", "dropped, uniform", "dropped, layer-aware", "margin, layer-aware - uniform"], rows),
        runs_table([*theirs, *ours], label=_label),
    ]
    return Report([*theirs, *ours], findings, "\n\n".join(text))


def _label(run: Run) -> str:
    return run.label + (", layer-aware" if run.config["method"]["overrides"] else "")
