"""Table 7: which part of the model, restored under the INFP mask, brings a trait back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.figures import Difference, Interval, Run, finished_runs
from experiments.findings import Finding
from experiments.publish import Report
from experiments.tables import markdown, runs_table

_TRAITS = ("introvert", "intuitive", "feeler", "perceiver")
_ALPHA = 0.05


def report(directory: Path, folder: Path) -> Report:
    """Return what restoring every part does to the four traits."""
    home = directory / "causal_probe"
    runs = finished_runs(home)[-1:]
    # run.sh names the probe after the run whose mask it takes apart.
    probes = [path for run in runs for path in home.glob(f"probe-{run.path.name}-*/analysis.json")]
    if not probes:
        return Report([], [], "")
    latest = max(probes, key=lambda path: path.stat().st_mtime)
    restore = json.loads(latest.read_text(encoding="utf-8"))["restore"]
    figures = {trait: restore["figures"][f"margin_{trait}"] for trait in _TRAITS}
    ratio = runs[0].metrics["capability/perplexity_ratio"]
    findings = [finding(trait, figures[trait], effect(runs[0], trait), ratio) for trait in _TRAITS]
    parts = list(figures[_TRAITS[0]]["restored"])
    rows = [[part, *(_cell(figures[trait]["restored"][part]) for trait in _TRAITS)] for part in parts]
    rows.insert(0, ["INFP mask - dense", *(f"{figures[t]['masked'] - figures[t]['dense']:+.2f}" for t in _TRAITS)])
    text = f"Change of the margin (nats) when one {restore['by']} is restored:\n\n" + markdown(
        [restore["by"], *_TRAITS], rows
    )
    return Report(runs, findings, f"{text}\n\n{runs_table(runs)}")


def effect(run: Run, trait: str) -> Difference:
    """Return what the whole mask does to a trait's margin."""
    key = f"margin_{trait}"
    samples = run.items("choice").samples
    return Difference.mean([s["values"][key] - s["dense_values"][key] for s in samples if s["values"][key] is not None])


def finding(trait: str, figures: Mapping[str, Any], own: Difference, ratio: float) -> Finding:
    """Return the part that brings the trait back most: how much of what the mask did it undoes.

    Over so many parts some are significant by chance, so p is adjusted (false discovery rate).
    """
    part, best = min(figures["restored"].items(), key=lambda item: item[1]["change"])
    moved = own.low > 0 and own.p < _ALPHA
    return Finding(
        claim=trait,
        ours=f"{part} (the mask's own effect {own.text('+.2f')} nats)",
        unit="nats back",
        change=Difference(-best["change"], -best["high"], -best["low"], best["p_fdr"]),
        perplexity_ratio=ratio,
        items=figures["items"],
        doubts=[] if moved else ["the mask is not shown to move the trait to INFP, so nothing can flip back"],
    )


def _cell(found: Mapping[str, float]) -> str:
    star = "*" if found["p_fdr"] < _ALPHA else ""
    return Interval(found["change"], found["low"], found["high"]).text("+.2f") + star
