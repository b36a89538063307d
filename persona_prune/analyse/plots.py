"""Figures of an analysis, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from persona_prune.analyse.hidden import Similarity
from persona_prune.analyse.overlap import By, Overlap
from persona_prune.analyse.restore import Sweep
from persona_prune.models.layers import place

_STYLE: Any = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium"}
_DPI = 150
_MOST_LABELS = 16


def grid(values: Mapping[str, float]) -> tuple[NDArray[np.float64], list[str], list[int]]:
    """Lay values by Linear out by module and layer.

    Returns:
        ``[modules, layers]``, NaN where there is none, the mean where there are several (experts); the names of the
        modules in order of appearance; the numbers of the layers. Linears outside layers have no place in it.
    """
    cells: dict[tuple[str, int], list[float]] = {}
    for name, value in values.items():
        where = place(name)
        if where.layer is not None:
            cells.setdefault((where.module, where.layer), []).append(value)
    modules = list(dict.fromkeys(module for module, _ in cells))
    layers = sorted({layer for _, layer in cells})
    laid_out = np.full((len(modules), len(layers)), np.nan)
    for (module, layer), found in cells.items():
        laid_out[modules.index(module), layers.index(layer)] = np.mean(found)
    return laid_out, modules, layers


def plot_overlap(path: Path, pair: str, by_linear: Mapping[str, Overlap]) -> None:
    """Draw the share of differing entries of every Linear, layer by module."""
    shares = {name: 100 * overlap.figures()["differing"] for name, overlap in by_linear.items()}
    _heatmap(path, shares, f"{pair}: entries that differ", "% of entries", Normalize(), "viridis")


def plot_similarity(path: Path, similarities: Mapping[str, Similarity], prompts: int) -> None:
    """Draw the cosine similarity of every pair of models by layer, over all tokens and of the last one."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
        for one, variant, title in ((axes[0], "mean", "mean of all tokens"), (axes[1], "last", "last token")):
            for number, (pair, similarity) in enumerate(similarities.items()):
                values = getattr(similarity, variant)
                # Matplotlib has ten colours; more pairs take another line.
                line = ("-", "--", ":", "-.")[number // 10 % 4]
                one.plot(range(len(values)), values, line, color=f"C{number}", marker="o", markersize=3, label=pair)
            one.set_title(title)
            one.set_xlabel("layer (the last one after the final norm)")
            one.grid(alpha=0.3)
        axes[0].set_ylabel(f"cosine similarity, {prompts} prompts")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize="small")
        figure.savefig(path, dpi=_DPI)


def plot_sweep(path: Path, sweep: Sweep, by: By, figure: str, mask: str) -> None:
    """Draw the change of a figure by restored part: a heatmap for single Linears, else bars with 95% intervals."""
    part = "Linear" if by == "linear" else by
    title = f"{figure} when one {part} is restored\n{sweep.masked:+.3f} under {mask}, {sweep.dense:+.3f} dense"
    if by == "linear":
        changes = {part: found.delta for part, found in sweep.restored.items()}
        _heatmap(path, changes, title, f"change of {figure}", CenteredNorm(), "RdBu_r")
        return
    with matplotlib.rc_context(_STYLE):
        per_bar = max(0.22, 0.1 * max(len(label) for label in sweep.restored))
        drawn = Figure(figsize=(max(5.0, 1.0 + per_bar * len(sweep.restored)), 3.4), layout="constrained")
        axes = drawn.add_subplot()
        at = range(len(sweep.restored))
        found = list(sweep.restored.values())
        colours = ["#b2453c" if one.delta > 0 else "#3b6fb2" for one in found]
        axes.bar(at, [one.delta for one in found], color=colours, width=0.7)
        axes.vlines(at, [one.low for one in found], [one.high for one in found], color="#303030", linewidth=1)
        axes.axhline(0, color="#303030", linewidth=0.8)
        _thin_labels(axes, list(sweep.restored))
        axes.margins(x=0.02)
        axes.set_xlabel(by)
        axes.set_ylabel(f"change of {figure}")
        axes.set_title(title, loc="left")
        drawn.savefig(path, dpi=_DPI)


def _heatmap(path: Path, values: Mapping[str, float], title: str, label: str, norm: Normalize, colours: str) -> None:
    laid_out, modules, layers = grid(values)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(max(5.0, 2.6 + 0.22 * len(layers)), 1.5 + 0.3 * len(modules)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(laid_out, aspect="auto", norm=norm, cmap=colours)
        axes.set_yticks(range(len(modules)), modules)
        _thin_labels(axes, [str(layer) for layer in layers])
        axes.set_xlabel("layer")
        axes.set_title(title, loc="left")
        figure.colorbar(image, label=label)
        figure.savefig(path, dpi=_DPI)


def _thin_labels(axes: Axes, labels: Sequence[str]) -> None:
    step = -(-len(labels) // _MOST_LABELS)
    axes.set_xticks(range(0, len(labels), step), labels[::step])
