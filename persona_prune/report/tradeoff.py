"""Alignment against its cost: scatter plots with the Pareto front."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from persona_prune.report import questions
from persona_prune.report.figures import DRIFT, RATIO, Figure, figure
from persona_prune.report.plot_style import INK, mark, plotting, svg
from persona_prune.report.point_labels import place_labels
from persona_prune.report.questions import EVALUATORS, Group
from persona_prune.report.run_settings import labels
from persona_prune.saved.finished_runs import Run

ALIGNMENTS = {
    "expressed": "share of answers in which the persona is heard",
    "margin": "margin (nats per token)",
    "accuracy_norm": "accuracy per token",
}
_SPEECH = ("expressed",)
COSTS = {RATIO: "perplexity ratio, persona / dense (log)", DRIFT: "neutral drift (nats per token)"}
_MOST_PANELS = 12
_MOST_NAMED = 14  # points with names of their own; of more only those on the front
_MOST_SERIES = 12
_RIVALS = 3  # runs of one question from which on it gets a plot of its own


@dataclass(frozen=True)
class Point:
    """A run, or the dense model, in one plot."""

    name: str
    series: str
    gain: Figure
    costs: Mapping[str, Figure]


@dataclass(frozen=True)
class Plot:
    """A drawing, what it shows, and the alignment metric by which the page selects it."""

    title: str
    metric: str
    drawing: Markup
    note: str


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the numbers of the points ``(cost, gain)`` that no other beats, by rising cost.

    A point beats another if it costs no more and gains no less, and is better in one of them.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    kept: list[int] = []
    for i in order:
        cost, gain = points[i]
        if not kept or gain > points[kept[-1]][1] or points[kept[-1]] == (cost, gain):
            kept.append(i)
    return kept


def tradeoffs(runs: Sequence[Run], by_choice: Sequence[Group]) -> list[Plot]:
    """Draw the runs of every question; questions with few runs share a plot of differences from dense.

    What the model says comes first, then what it chooses.

    Args:
        runs: all that are compared.
        by_choice: the runs by question (`questions.groups`).
    """
    plots = []
    for metric, label in ALIGNMENTS.items():
        heard = metric in _SPEECH
        groups = questions.groups(runs, ("speech",), metric) if heard else by_choice
        rivals = _rivals(groups)
        for group in rivals[:_MOST_PANELS]:
            points = _points([runs[i] for i in group.members], group.evaluator, metric)
            dense = _dense(runs[group.members[0]], group.evaluator, metric)
            plots += _plot(group.label, metric, label, [*points, *dense], ranked=True)
        for evaluator in ("speech",) if heard else EVALUATORS:
            single = [
                i for group in groups if group not in rivals and group.evaluator == evaluator for i in group.members
            ]
            points = _points([runs[i] for i in single], evaluator, f"{metric}_delta")
            if points:
                origin = Point("dense", "dense", Figure(0.0), {RATIO: Figure(1.0), DRIFT: Figure(0.0)})
                options = evaluator == "multiple_choice"
                title = "Several personas, questions with options" if options else "Several personas"
                plots += _plot(title, metric, f"{label}, minus dense", [*points, origin], ranked=False)
    return plots


def _rivals(groups: Sequence[Group]) -> list[Group]:
    """Return the questions that get a plot of their own."""
    return [group for group in groups if len(group.members) >= _RIVALS or len(groups) == 1]


def left_out(groups: Sequence[Group]) -> list[str]:
    """Return the labels of the questions that have no plot because there are too many."""
    rivals = [group for group in groups if len(group.members) >= _RIVALS]
    return [group.label for group in rivals[_MOST_PANELS:]]


def _points(runs: Sequence[Run], evaluator: str, metric: str) -> list[Point]:
    """Return the runs that have the figure and a cost, called by what tells these runs apart."""
    return [point for run, name in zip(runs, labels(runs)) if (point := _point(run, name, evaluator, metric))]


def _point(run: Run, name: str, evaluator: str, metric: str) -> Point | None:
    gain = figure(run.metrics, f"{evaluator}/{metric}")
    costs = {key: cost for key in COSTS if (cost := figure(run.metrics, key)) and (key != RATIO or cost.value > 0)}
    if run.method == "none" or gain is None or not costs:
        return None
    return Point(name, run.method, gain, costs)


def _dense(run: Run, evaluator: str, metric: str) -> list[Point]:
    gain = figure(run.metrics, f"dense/{evaluator}/{metric}")
    return [Point("dense", "dense", gain, {RATIO: Figure(1.0), DRIFT: Figure(0.0)})] if gain else []


def _plot(title: str, metric: str, label: str, points: Sequence[Point], *, ranked: bool) -> list[Plot]:
    """Draw one plot with an axis a cost; nothing where only the dense model has a cost."""
    shown = [key for key in COSTS if any(key in p.costs for p in points if p.series != "dense")]
    if not shown:
        return []
    series = list(dict.fromkeys(p.series for p in points if p.series != "dense"))
    titles: dict[str, str] = {}
    with plotting():
        drawing = Drawing(figsize=(10, 4.2))
        drawing.subplots_adjust(left=0.07, right=0.98, top=0.87, bottom=0.13, wspace=0.08)
        all_axes = np.atleast_1d(drawing.subplots(1, len(shown), sharey=True)).tolist()
        for axes, cost in zip(all_axes, shown):
            _scatter(axes, cost, [p for p in points if cost in p.costs], series, titles, ranked=ranked)
        all_axes[0].set_ylabel(label)
        _legend(drawing, all_axes[0], series, ranked=ranked)
        drawing.draw_without_rendering()
        for axes, cost in zip(all_axes, shown):
            _name_points(axes, cost, [p for p in points if cost in p.costs], ranked=ranked)
        return [Plot(title, metric, svg(drawing, titles), _note(points, shown, len(series)))]


def _scatter(
    axes: Axes,
    cost: str,
    points: Sequence[Point],
    series: Sequence[str],
    titles: dict[str, str],
    *,
    ranked: bool,
) -> None:
    for point in points:
        x, y = point.costs[cost], point.gain
        is_dense = point.series == "dense"
        colour, marker = (INK, "*") if is_dense else mark(min(series.index(point.series), _MOST_SERIES))
        gid = f"point-{len(titles)}-x"
        if x.low is not None and x.high is not None:
            axes.plot([x.low, x.high], [y.value, y.value], color=colour, lw=1, alpha=0.55)
        if y.low is not None and y.high is not None:
            axes.plot([x.value, x.value], [y.low, y.high], color=colour, lw=1, alpha=0.55)
        (drawn,) = axes.plot(x.value, y.value, marker, color=colour, ms=11 if is_dense else 6)
        drawn.set_gid(gid)
        titles[gid] = f"{point.name}: {y.text('+.3f')} at {x.text('.3f')}"
    if ranked:
        best = [points[i] for i in front([(p.costs[cost].value, p.gain.value) for p in points])]
        xs, ys = [p.costs[cost].value for p in best], [p.gain.value for p in best]
        axes.step(xs, ys, where="post", color=INK, lw=1, ls="--", zorder=0)
        axes.plot(xs, ys, "o", ms=12, mfc="none", mec=INK, mew=1.2, zorder=0)
    axes.axhline(0, color=INK, lw=0.6, ls=":", zorder=0)
    axes.set_xlabel(COSTS[cost])
    axes.tick_params(labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if cost == RATIO:
        log_axis(axes, "x", [p.costs[cost].value for p in points])


def log_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Make an axis logarithmic, with plain numbers at round places, however narrow its range."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    wide = max(values) / min(values) > 20
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8) if wide else MaxNLocator(6))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(drawing: Drawing, axes: Axes, series: Sequence[str], *, ranked: bool) -> None:
    entries = [("dense", INK, "*")]
    entries += [(name, *mark(number)) for number, name in enumerate(series[:_MOST_SERIES])]
    if len(series) > _MOST_SERIES:
        entries.append(("others", *mark(_MOST_SERIES)))
    handles = [axes.plot([], [], m, color=colour, label=name)[0] for name, colour, m in entries]
    if ranked:
        handles += axes.plot([], [], "o--", color=INK, mfc="none", ms=10, label="Pareto front")
    columns = min(len(handles), math.ceil(len(handles) / 2) if len(handles) > 7 else 7)
    drawing.legend(handles=handles, loc="upper center", ncols=columns, frameon=False, fontsize=9, columnspacing=1.2)


def _name_points(axes: Axes, cost: str, points: Sequence[Point], *, ranked: bool) -> None:
    runs = [p for p in points if p.series != "dense"]
    named = runs
    if len(runs) > _MOST_NAMED and ranked:
        best = front([(p.costs[cost].value, p.gain.value) for p in points])
        named = [points[i] for i in best if points[i].series != "dense"]
    place_labels(
        axes,
        [(p.costs[cost].value, p.gain.value) for p in points],
        {(p.costs[cost].value, p.gain.value): p.name for p in named},
    )


def _note(points: Sequence[Point], shown: Sequence[str], series: int) -> str:
    parts = []
    for key in shown:
        missing = sum(key not in p.costs for p in points)
        if missing:
            parts.append(f"{missing} without a finite {key.partition('/')[2].replace('_', ' ')} not shown there.")
    if series > _MOST_SERIES:
        parts.append(f"Methods from the {_MOST_SERIES + 1}th on share a mark.")
    return " ".join(parts)
