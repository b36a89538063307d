"""Personas against traits: a heat table, and radar plots of what questionnaires say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure as Drawing
from matplotlib.projections.polar import PolarAxes

from persona_prune.report.figures import Figure, costs, figure
from persona_prune.report.plot_style import DENSE, INK, MASKED, plotting, svg
from persona_prune.report.run_settings import labels
from persona_prune.saved.finished_runs import Run, samples

_SCORE = "questionnaire/score_"
_CHOICE = ("accuracy", "accuracy_norm", "accuracy_content", "margin", "matching_log_prob")
_MOST_TRAITS = 16
_MOST_ROWS = 200
_MOST_RADARS = 24
_DARKEST = 0.6  # opacity of the colour of the largest change


@dataclass(frozen=True)
class TraitCell:
    """A change from dense: its figure as text, and its colour as a custom property's name and an opacity."""

    value: str
    interval: str
    colour: str
    opacity: float


@dataclass(frozen=True)
class Heat:
    """The heat table.

    Attributes:
        about: what the columns are and how they are coloured.
        columns: headings.
        rows: name of the run, a cell a column (None: not measured), and what the persona costs.
        cut: runs beyond the limit, which have no row.
    """

    about: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[TraitCell | None], Sequence[str]]]
    cut: int


@dataclass(frozen=True)
class Radar:
    """One run's radar plot and, beside it, what the persona costs."""

    name: str
    drawing: Markup
    cost: str


def heat(runs: Sequence[Run]) -> Heat | None:
    """Return the changes from dense by run and trait, or by run and choice metric without questionnaires.

    None where fewer than two personas have such figures.
    """
    scales = _scales(runs)[:_MOST_TRAITS]
    asked = [i for i, run in enumerate(runs) if any(f"{_SCORE}{scale}_delta" in run.metrics for scale in scales)]
    if len({runs[i].persona for i in asked}) > 1:
        keys = [f"{_SCORE}{scale}_delta" for scale in scales]
        about = "Questionnaire scores, persona minus dense, in points of the answer scale. One colour scale for all."
        return _heat(runs, asked, keys, list(scales), about, together=True)
    keys = [f"choice/{metric}_delta" for metric in _CHOICE]
    keys = [key for key in keys if any(key in run.metrics for run in runs)]
    asked = [i for i, run in enumerate(runs) if any(key in run.metrics for key in keys)]
    if len({runs[i].persona for i in asked}) < 2:
        return None
    titles = [key.removeprefix("choice/").removesuffix("_delta") for key in keys]
    about = "Choice figures, persona minus dense (shares; nats per token). Every column has its own colour scale."
    return _heat(runs, asked, keys, titles, about, together=False)


def radars(runs: Sequence[Run]) -> tuple[list[Radar], int]:
    """Return a radar plot of every questionnaire's scores, masked against dense, and how many were cut off."""
    scales = [[scale for scale in _scales([run]) if figure(run.metrics, _SCORE + scale)] for run in runs]
    asked = [(run, found) for run, found in zip(runs, scales) if len(found) > 2]
    names = labels([run for run, _ in asked]) if asked else []
    drawn = [_radar(run, name, found) for (run, found), name in list(zip(asked, names))[:_MOST_RADARS]]
    return drawn, len(asked) - len(drawn)


def _scales(runs: Sequence[Run]) -> list[str]:
    """Return the scales of the questionnaires that were asked."""
    ends = ("_low", "_high", "_delta", "_p", "_effect")
    keys = dict.fromkeys(key for run in runs for key in run.metrics if key.startswith(_SCORE))
    return [key.removeprefix(_SCORE) for key in keys if not key.endswith(ends) and "_vs_" not in key]


def _heat(
    runs: Sequence[Run], asked: Sequence[int], keys: Sequence[str], titles: Sequence[str], about: str, *, together: bool
) -> Heat:
    shown = asked[:_MOST_ROWS]
    changes = {(i, key): found for i in shown for key in keys if (found := figure(runs[i].metrics, key))}
    by_key = {key: max((abs(c.value) for (_, k), c in changes.items() if k == key), default=0.0) for key in keys}
    largest = dict.fromkeys(keys, max(by_key.values())) if together else by_key
    names = labels([runs[i] for i in shown])
    rows = [
        (name, [_cell(changes.get((i, key)), largest[key]) for key in keys], costs(runs[i]))
        for name, i in zip(names, shown)
    ]
    return Heat(about, titles, rows, len(asked) - len(shown))


def _cell(change: Figure | None, largest: float) -> TraitCell | None:
    if change is None:
        return None
    opacity = _DARKEST * abs(change.value) / largest if largest else 0.0
    return TraitCell(
        f"{change.value:+.2f}", change.interval("+.2f"), "more" if change.value > 0 else "less", round(opacity, 2)
    )


def _radar(run: Run, name: str, scales: Sequence[str]) -> Radar:
    angles = np.linspace(0, 2 * math.pi, len(scales), endpoint=False).tolist()
    series = {"dense": (f"dense/{_SCORE}", DENSE, "s--"), run.method: (_SCORE, MASKED, "o-")}
    if run.method == "none":
        series = {"dense": (_SCORE, DENSE, "s--")}
    with plotting():
        drawing = Drawing(figsize=(3.9, 3.5), layout="constrained")
        axes = cast(PolarAxes, drawing.add_subplot(projection="polar"))
        for label, (prefix, colour, line) in series.items():
            points = [(a, f) for a, scale in zip(angles, scales) if (f := figure(run.metrics, prefix + scale))]
            closed = [*points, *points[:1]]
            axes.plot([a for a, _ in closed], [f.value for _, f in closed], line, color=colour, ms=4, label=label)
            for angle, found in points:
                if found.low is not None and found.high is not None:
                    axes.plot([angle, angle], [found.low, found.high], color=colour, lw=2.5, alpha=0.45)
        axes.set_xticks(angles, scales)
        axes.tick_params("x", pad=8)
        levels = _levels(run)
        axes.set_rgrids([float(level) for level in range(2, levels + 1)], angle=180 / len(scales), fontsize=8)
        axes.set_ylim(1, levels)
        axes.grid(color=INK, lw=0.5, alpha=0.5)
        axes.spines["polar"].set_visible(False)
        drawing.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        drawn = svg(drawing)
    ratio, drift = costs(run)
    return Radar(name, drawn, f"perplexity ratio {ratio}; neutral drift {drift}")


def _levels(run: Run) -> int:
    """Return the number of answers to choose from; without the items, enough for all scores."""
    for sample in samples(run, "questionnaire"):
        if isinstance(sample.get("options"), list):
            return len(sample["options"])
    return max(5, math.ceil(max(value for key, value in run.metrics.items() if key.startswith(_SCORE))))
