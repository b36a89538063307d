"""Table 7: which part of the model, restored under the INFP mask, brings a trait back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.figures import Interval, finished_runs
from experiments.findings import Finding
from experiments.publish import Report
from experiments.tables import markdown, runs_table

_TRAITS = ("introvert", "intuitive", "feeler", "perceiver")
_ALPHA = 0.05


def report(directory: Path, folder: Path) -> Report:
    """Return what restoring every part does to the four traits."""
    home = directory / "causal_probe"
    runs = finished_runs(home)[-1:]
    path = home / "probe" / "analysis.json"
    if not runs or not path.is_file():
        return Report([], [], "")
    restore = json.loads(path.read_text(encoding="utf-8"))["restore"]
    figures = {trait: restore["figures"][f"margin_{trait}"] for trait in _TRAITS}
    items = len(runs[0].items("choice").samples) // len(_TRAITS)
    ratio = runs[0].metrics["capability/perplexity_ratio"]
    findings = [finding(trait, figures[trait], ratio, items) for trait in _TRAITS]
    parts = list(figures[_TRAITS[0]]["restored"])
    rows = [[part, *(_cell(figures[trait]["restored"][part]) for trait in _TRAITS)] for part in parts]
    rows.insert(0, ["INFP mask - dense", *(f"{figures[t]['masked'] - figures[t]['dense']:+.2f}" for t in _TRAITS)])
    text = f"Change of the margin (nats) when one {restore['by']} is restored:\n\n" + markdown(
        [restore["by"], *_TRAITS], rows
    )
    return Report(runs, findings, f"{text}\n\n{runs_table(runs)}")


def finding(trait: str, figures: Mapping[str, Any], ratio: float, items: int) -> Finding:
    """Return the part that brings the trait back most: how much of what the mask did it undoes.

    Undoing is counted towards the dense model. Over so many parts some are significant by chance, so p is adjusted
    (false discovery rate).
    """
    effect = figures["masked"] - figures["dense"]
    side = -1.0 if effect > 0 else 1.0
    part, best = max(figures["restored"].items(), key=lambda item: side * item[1]["change"])
    low, high = sorted((side * best["low"], side * best["high"]))
    return Finding(
        claim=trait,
        ours=f"{part} (p {best['p_fdr']:.2g}; the mask's own effect {effect:+.2f} nats)",
        unit="nats back",
        change=Interval(side * best["change"], low, high),
        control=None,
        control_name="",
        perplexity_ratio=ratio,
        items=items,
        obstacle=None if effect > 0 else "the mask does not move the trait to INFP, so nothing can flip back",
    )


def _cell(found: Mapping[str, float]) -> str:
    star = "*" if found["p_fdr"] < _ALPHA else ""
    return Interval(found["change"], found["low"], found["high"]).text("+.2f") + star
