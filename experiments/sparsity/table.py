"""Figures 3 and 4: persona-switch success rate and the strength of every pole, by sparsity."""

from collections.abc import Mapping
from pathlib import Path

from experiments.figures import Difference, Interval, Run, by_persona, finished_runs
from experiments.findings import Finding, doubts_of
from experiments.plots import lines, radar
from experiments.publish import Report
from experiments.switching import apart, difference, rate, worst_ratio
from experiments.tables import markdown, percent, runs_table

_CORNERS = 3  # that a radar plot needs

Swept = Mapping[str, Mapping[float, Mapping[str, Run]]]
"""Method -> sparsity -> persona -> its run."""


def report(directory: Path, folder: Path) -> Report:
    """Return success rates by method and sparsity; draw them and the radar plots."""
    runs = finished_runs(directory / "sparsity")
    if not runs:
        return Report([], [], "")
    swept = {
        method: {s: by_persona(runs, method, s) for s in sorted({r.sparsity for r in runs if r.method == method})}
        for method in dict.fromkeys(run.method for run in runs)
    }
    used = [run for found in swept.values() for masks in found.values() for run in masks.values()]
    rows = [
        [method, f"{s:g}", *(percent(rate(masks.values(), arm)) for arm in ("", "dense/", "opposite/")),
         _mean_margin(masks).text("+.2f"), f"{worst_ratio(masks.values()):.3g}", str(len(masks))]
        for method, found in swept.items() for s, masks in found.items()
    ]  # fmt: skip
    columns = [
        "method",
        "sparsity",
        "success",
        "dense",
        "opposite's mask",
        "margin, change",
        "perplexity ratio",
        "poles",
    ]
    _draw(swept, folder)
    text = [
        markdown(columns, rows),
        "![Success rate by sparsity](success.svg)",
        "![Accuracy per token of every pole](radar.svg)" if (folder / "radar.svg").exists() else "",
        runs_table(used),
    ]
    return Report(used, _findings(swept), "\n\n".join(filter(None, text)))


def _findings(swept: Swept) -> list[Finding]:
    findings = []
    for method, sparsity in (("wanda", 0.2), ("wanda", 0.4), ("sparse", 0.2), ("sparse", 0.6)):
        masks = swept.get(method, {}).get(sparsity, {})
        moved = apart(masks)
        if moved:
            ours = f"{percent(rate(masks.values()))} (dense {100 * rate(masks.values(), 'dense/').value:.0f}%)"
            change, ratio = Difference.mean(list(moved.values())), worst_ratio(masks.values())
            doubts = doubts_of(masks.values())
            findings.append(Finding(f"{method}_{sparsity:g}", ours, "nats", change, ratio, len(moved), doubts=doubts))
    for method, best, other in (("wanda", 0.4, 0.6), ("sparse", 0.6, 0.4)):
        first, second = (swept.get(method, {}).get(s, {}) for s in (best, other))
        further = difference(first, second)
        if further is not None:
            ours = f"{percent(rate(first.values()))} against {percent(rate(second.values()))}"
            ratio = max(map(worst_ratio, (first.values(), second.values())))
            items, doubts = len(apart(first)), doubts_of(first.values())
            findings.append(Finding(f"{method}_peak", ours, "nats", further, ratio, items, doubts=doubts))
    return findings


def _mean_margin(masks: Mapping[str, Run]) -> Interval:
    return Interval.mean([run.metrics["choice/margin_delta"] for run in masks.values()])


def _draw(swept: Swept, folder: Path) -> None:
    rates = {method: {s: rate(masks.values()) for s, masks in found.items()} for method, found in swept.items()}
    first = next(iter(swept.values()))
    rates["dense"] = {s: rate(masks.values(), "dense/") for s, masks in first.items()}
    lines(folder / "success.svg", rates, "sparsity", "persona-switch success rate")
    poles = sorted({name for found in swept.values() for masks in found.values() for name in masks})
    if len(poles) < _CORNERS:
        return
    panels = []
    for found in swept.values():
        complete = {s: masks for s, masks in found.items() if set(masks) == set(poles)}
        panel = {f"{s:g}": [masks[p].metrics["choice/accuracy_norm"] for p in poles] for s, masks in complete.items()}
        some = next(iter(complete.values()), {})
        dense = {"dense": [some[pole].metrics["dense/choice/accuracy_norm"] for pole in poles]} if some else {}
        panels.append(dense | panel)
    radar(folder / "radar.svg", list(swept), poles, panels)
