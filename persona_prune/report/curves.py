"""Alignment and its cost by the share of weights dropped, a line a method."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from persona_prune.report.figures import RATIO, Figure, figure
from persona_prune.report.plot_style import INK, mark, plotting, svg
from persona_prune.report.questions import Group
from persona_prune.report.tradeoff import Plot, log_axis
from persona_prune.saved.finished_runs import Run

_MOST_PANELS = 12
_CONTROL = "random control"

Curve = list[tuple[float, Mapping[str, Figure]]]
"""Share of weights dropped, and the figures of a run there by metric."""


def sparsity_curves(runs: Sequence[Run], groups: Sequence[Group]) -> list[Plot]:
    """Draw a plot for every question in which a method comes at several sparsities, with the random control's mask."""
    plots = []
    for group in groups:
        series = _series([runs[i] for i in group.members], group.evaluator)
        if any(len({x for x, _ in points}) > 1 for name, points in series.items() if name != _CONTROL):
            plots.append(_plot(group, series, runs[group.members[0]]))
    return plots[:_MOST_PANELS]


def _series(runs: Sequence[Run], evaluator: str) -> dict[str, Curve]:
    """Return the masks' runs by method and, last, the random masks they were compared with."""
    series: dict[str, Curve] = {}
    control: Curve = []
    metrics = [f"{evaluator}/accuracy_norm", f"{evaluator}/margin", RATIO]
    for run in runs:
        dropped = run.metrics.get("mask/sparsity", 0.0)
        if not dropped:
            continue
        own = {key: value for key in metrics if (value := figure(run.metrics, key))}
        series.setdefault(run.method, []).append((dropped, own))
        random = {key: value for key in metrics if (value := figure(run.metrics, f"random/{key}"))}
        if random:
            control.append((dropped, random))
    return series | ({_CONTROL: control} if control else {})


def _plot(group: Group, series: Mapping[str, Curve], one: Run) -> Plot:
    kinds = {
        f"{group.evaluator}/accuracy_norm": "accuracy per token",
        f"{group.evaluator}/margin": "margin (nats per token)",
        RATIO: "perplexity ratio (log)",
    }
    with plotting():
        drawing = Drawing(figsize=(10, 3.4), layout="constrained")
        for axes, (key, label) in zip(drawing.subplots(1, len(kinds)), kinds.items()):
            for number, (name, points) in enumerate(series.items()):
                _line(axes, name, number, [(x, values[key]) for x, values in points if key in values])
            _reference(axes, figure(one.metrics, f"dense/{key}") if key != RATIO else Figure(1.0))
            axes.set_xlabel("share of weights dropped")
            axes.set_ylabel(label)
            axes.tick_params(labelsize=9)
            costs = [values[RATIO].value for points in series.values() for _, values in points if RATIO in values]
            if key == RATIO and not costs:
                axes.text(0.5, 0.5, "capability\nnot measured", transform=axes.transAxes, ha="center", va="center")
            elif key == RATIO:
                log_axis(axes, "y", [1.0, *costs])
        handles, names = axes.get_legend_handles_labels()
        if not handles:
            handles, names = drawing.axes[0].get_legend_handles_labels()
        drawing.legend(handles, names, loc="outside upper center", ncols=min(6, len(names)), frameon=False, fontsize=9)
        return Plot(group.label, "margin", svg(drawing), "")


def _line(axes: Axes, name: str, number: int, points: Sequence[tuple[float, Figure]]) -> None:
    """Draw every run with its interval, and a line through the means where several share a place (seeds)."""
    if not points:
        return
    colour, marker = (INK, "x") if name == _CONTROL else mark(number)
    for x, value in points:
        if value.low is not None and value.high is not None:
            axes.plot([x, x], [value.low, value.high], color=colour, lw=1, alpha=0.6)
        axes.plot(x, value.value, marker, color=colour, ms=5)
    places = sorted({x for x, _ in points})
    means = [[value.value for x, value in points if x == place] for place in places]
    line = ":" if name == _CONTROL else "-"
    axes.plot(places, [sum(m) / len(m) for m in means], line, marker=marker, ms=5, color=colour, lw=1.4, label=name)


def _reference(axes: Axes, dense: Figure | None) -> None:
    if dense is None:
        return
    axes.axhline(dense.value, color=INK, lw=1, ls="--", label="dense", zorder=0)
    if dense.low is not None and dense.high is not None:
        axes.axhspan(dense.low, dense.high, color=INK, alpha=0.12, lw=0, zorder=0)
