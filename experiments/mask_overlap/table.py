"""Tables 2, 13 and 14: where the masks of opposite poles differ, and how much those of power and wealth overlap."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.figures import Difference, Interval, Run, by_persona, finished_runs
from experiments.findings import Finding
from experiments.publish import Report
from experiments.switching import POLES
from experiments.tables import markdown, percent
from persona_prune.analyse import __main__ as analyse
from persona_prune.models.layers import place

_METHODS = ("wanda", "sparse", "contrastive_wanda", "contrastive_sparse")
_SPARSITY = 0.6
_SMALLEST = 0.05  # difference between two overlaps (Jaccard) that is worth the name


def report(directory: Path, folder: Path) -> Report:
    """Compare the masks in pairs (seconds) and return their overlaps."""
    runs = finished_runs(directory / "mask_overlap")
    findings, rows = [], []
    for axis, (one, other) in POLES.items():
        for method in _METHODS[:2]:
            masks = by_persona(runs, method, _SPARSITY)
            if one in masks and other in masks:
                found = overlap(masks[one], masks[other], directory / "analysis" / f"{axis}-{method}")
                rows.append([axis, method.replace("_", " "), *_cells(found)])
                if method == "wanda":
                    findings.append(_differing(axis, found))
    jaccard = {}
    for method in _METHODS:
        masks = by_persona(runs, method, _SPARSITY)
        if "power_seeking" in masks and "wealth_seeking" in masks:
            target = directory / "analysis" / f"power-wealth-{method}"
            jaccard[method] = overlap(masks["power_seeking"], masks["wealth_seeking"], target)
            rows.append(["power - wealth", method.replace("_", " "), *_cells(jaccard[method])])
    if "wanda" in jaccard:
        findings += [_jaccard(method, jaccard) for method in _METHODS[1:] if method in jaccard]
    columns = ["masks", "method", "differ", "by chance", "attention", "MLP", "Jaccard kept", "by chance"]
    return Report(runs, findings, markdown(columns, rows))


def overlap(one: Run, other: Run, output: Path) -> Mapping[str, Any]:
    """Return the overlap of two masks as `persona_prune.analyse` writes it.

    Raises:
        ValueError: it could not be made; its message is on the terminal.
    """
    if analyse.main([f"A={one.path}", f"B={other.path}", "--output", str(output)]) != 0:
        raise ValueError(f"the masks of {one.path} and {other.path} could not be compared")
    content = json.loads((output / "analysis.json").read_text(encoding="utf-8"))
    found: Mapping[str, Any] = content["overlap"]["A-B"]
    return found


def mlp_minus_attention(found: Mapping[str, Any]) -> list[float]:
    """Return, by layer, the share of differing entries in the MLP minus that in attention."""
    counts: dict[tuple[int, str], list[float]] = {}
    for name, figures in found["linear"].items():
        where = place(name)
        if where.layer is not None:
            differing, entries = counts.setdefault((where.layer, where.block), [0.0, 0.0])
            counts[where.layer, where.block] = [
                differing + figures["differing"] * figures["entries"],
                entries + figures["entries"],
            ]
    share = {key: differing / entries for key, (differing, entries) in counts.items()}
    return [share[layer, "MLP"] - share[layer, "attention"] for layer, block in share if block == "MLP"]


def _differing(axis: str, found: Mapping[str, Any]) -> Finding:
    by_layer = Interval.mean([figures["differing"] for figures in found["layer"].values()])
    change = Difference.mean([100 * difference for difference in mlp_minus_attention(found)])
    blocks = ", ".join(f"{name} {found['block'][name]['differing']:.2%}" for name in ("MLP", "attention"))
    ours = f"{percent(by_layer, '.2f')} (by chance {100 * found['all']['differing_by_chance']:.0f}%); {blocks}"
    return Finding(axis, ours, "points, MLP - attention", change, None, len(found["layer"]))


def _jaccard(method: str, found: Mapping[str, Mapping[str, Any]]) -> Finding:
    own, other = ([layer["jaccard_kept"] for layer in found[name]["layer"].values()] for name in (method, "wanda"))
    change = Difference.mean([b - a for a, b in zip(own, other, strict=True)])
    ours = f"{Interval.mean(own).text('.3f')} against {Interval.mean(other).text('.3f')}"
    whole = found[method]["all"]
    chance = whole["jaccard_kept_by_chance"]
    obstacle = f"random masks overlap hardly less ({chance:.3f}): these have nothing in common"
    return Finding(
        method,
        ours,
        "Jaccard, Wanda - this",
        change,
        None,
        len(own),
        doubts=[f"a difference of {change.value:.3f} is too small to matter"] if change.value < _SMALLEST else [],
        obstacle=obstacle if whole["jaccard_kept"] - chance < _SMALLEST else None,
    )


def _cells(found: Mapping[str, Any]) -> list[str]:
    whole, block = found["all"], found["block"]
    shares = [
        whole["differing"],
        whole["differing_by_chance"],
        block["attention"]["differing"],
        block["MLP"]["differing"],
    ]
    return [f"{share:.2%}" for share in shares] + [f"{whole[f'jaccard_kept{end}']:.3f}" for end in ("", "_by_chance")]
