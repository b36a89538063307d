"""The figures of the experiments, as small SVG files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
# Text stays text, and the same figures give the same file.
matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "persona_prune", "font.size": 9}

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from experiments.figures import Interval  # noqa: E402


def radar(
    path: Path, titles: Sequence[str], axes: Sequence[str], panels: Sequence[Mapping[str, Sequence[float]]]
) -> None:
    """Draw one radar plot a panel: label of a line -> its values in [0, 1] by axis."""
    figure = plt.figure(figsize=(4.2 * len(panels), 4.6), layout="constrained")
    angles = np.linspace(0, 2 * np.pi, len(axes), endpoint=False)
    colors: dict[str, str] = {}
    drawn: dict[str, Any] = {}
    for place, (title, lines) in enumerate(zip(titles, panels, strict=True), start=1):
        polar = figure.add_subplot(1, len(panels), place, projection="polar")
        for label, values in lines.items():
            color = colors.setdefault(label, f"C{len(colors)}")
            (line,) = polar.plot([*angles, angles[0]], [*values, values[0]], color=color)
            drawn.setdefault(label, line)
        polar.set_xticks(angles, axes)
        polar.tick_params(axis="x", pad=10)
        polar.set_ylim(0, 1)
        polar.set_yticks([0.25, 0.5, 0.75])
        # Between two axes, where no line has a corner.
        polar.set_rlabel_position(90 * 3 / len(axes))
        polar.set_title(title)
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=len(drawn), fontsize=8)
    _save(figure, path)


def lines(path: Path, series: Mapping[str, Mapping[float, Interval]], xlabel: str, ylabel: str) -> None:
    """Draw figures with their intervals over a setting, one line a label."""
    figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for place, (label, points) in enumerate(series.items()):
        at = np.array(sorted(points))
        found = [points[x] for x in at]
        middle = np.array([one.value for one in found])
        ends = np.array([[one.value - one.low for one in found], [one.high - one.value for one in found]])
        # A little apart, so that intervals don't cover each other.
        shift = (place - (len(series) - 1) / 2) * 0.01 * float(np.ptp(at) or 1)
        axis.errorbar(at + shift, middle, yerr=np.maximum(ends, 0), marker="o", capsize=3, label=label)
    axis.set_xticks(sorted({x for points in series.values() for x in points}))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(fontsize=8)
    _save(figure, path)


def heat(
    path: Path, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], label: str
) -> None:
    """Draw a table of signed figures in colours, zero in the middle."""
    array = np.array(values)
    largest = float(np.abs(array).max()) or 1.0
    figure, axis = plt.subplots(figsize=(4.5, 0.6 + 0.26 * len(rows)), layout="constrained")
    image = axis.imshow(array, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    for (row, column), value in np.ndenumerate(array):
        axis.text(
            column,
            row,
            f"{value:+.1f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if abs(value) > largest / 2 else "black",
        )
    figure.colorbar(image)
    axis.set_title(label, fontsize=9)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    figure.savefig(partial, format="svg", metadata={"Date": None})
    plt.close(figure)
    partial.replace(path)
