"""Tables 4, 10 and 11: seeking power, seeking wealth, and hallucination."""

from collections.abc import Mapping
from pathlib import Path

from experiments.figures import Run, finished_runs, paired
from experiments.findings import Finding, accuracy_doubts, beats, controls_of
from experiments.publish import Report
from experiments.tables import markdown, percent, runs_table
from persona_prune.report.verdict import WRECKED

_SHORTCUT = 0.95
_PAPER_MASKS = ("wanda", "sparse", "contrastive_wanda", "contrastive_sparse")

Runs = Mapping[tuple[str, str], Run]
"""(set, method) -> its run."""


def report(directory: Path, folder: Path) -> Report:
    """Return what the runs of all sets say."""
    home = directory / "two_way_choice"
    runs = finished_runs(home)
    for group in sorted(home.glob("*-flip_*")):
        runs += finished_runs(group)
    # The latest of a method, towards the answers that the paper is about.
    seeking = {(run.persona, run.method): run for run in runs if not run.config["persona"]["flip"]}
    findings = [finding(run) for run in seeking.values() if run.method != "none"]
    for name in dict.fromkeys(name for name, _ in seeking):
        findings += between(name, seeking)
    parts = ["Masks against the prompt on the same questions (margin, nats):\n\n" + against_prompt(seeking)]
    parts.append("All runs; *flipped*: with the opposite answers as target:\n\n" + runs_table(runs))
    return Report(runs, findings, "\n\n".join(parts))


def finding(run: Run) -> Finding:
    """Return what a run says about its method: accuracy as in the paper, differences in margin."""
    return Finding(
        claim=f"{run.persona}/{run.method}",
        ours=f"{percent(run.figure('choice/accuracy'))} (dense {100 * run.figure('dense/choice/accuracy').value:.1f}%)",
        unit="nats",
        change=run.difference("choice/margin_delta"),
        perplexity_ratio=run.metrics.get("capability/perplexity_ratio"),
        items=len(run.items("choice").samples),
        controls=controls_of(run, "choice/margin"),
        needs_control=run.is_mask,
        doubts=accuracy_doubts(run, "choice"),
        obstacle=_shortcut(run),
    )


def between(name: str, runs: Runs) -> list[Finding]:
    """Return what the paper's order comes to on one set: prompt, retrieval, masks, contrastive masks, LoRA."""
    findings = []
    mask, lora = runs.get((name, "contrastive_wanda")), runs.get((name, "lora"))
    masks = [runs[name, method] for method in _PAPER_MASKS if (name, method) in runs]
    # Of masks that leave a model, if there are any: what a wrecked one chooses says nothing.
    masks = [run for run in masks if run.metrics.get("capability/perplexity_ratio", 1.0) <= WRECKED] or masks
    for baseline in ("prompt", "rag"):
        other = runs.get((name, baseline))
        if mask and other:
            findings.append(_beats(f"{name}/contrastive_wanda-{baseline}", mask, other))
    for method in ("wanda", "sparse"):
        contrastive, plain = runs.get((name, f"contrastive_{method}")), runs.get((name, method))
        if contrastive and plain:
            findings.append(_beats(f"{name}/contrastive_{method}-{method}", contrastive, plain))
    if lora and masks:
        best = max(masks, key=lambda run: run.metrics["choice/margin"])
        findings.append(_beats(f"{name}/lora-masks", lora, best))
    return [found for found in findings if found is not None]


def _beats(claim: str, run: Run, other: Run) -> Finding | None:
    return beats(claim, run, other, obstacle=_shortcut(run))


def _shortcut(run: Run) -> str | None:
    samples = run.items("choice").samples
    share = sum(sample["values"].get("always_yes") == 1.0 for sample in samples) / len(samples)
    return f"always saying yes scores {share:.0%}" if share >= _SHORTCUT else None


def against_prompt(runs: Runs) -> str:
    """Return, for every mask, the margin minus that of the prompt on the same questions."""
    rows = []
    for (persona, _), run in runs.items():
        prompt = runs.get((persona, "prompt"))
        if prompt is not None and run.is_mask:
            found = paired(run, prompt, "choice", "margin")
            rows.append([persona, run.label, found.text("+.2f") if found else "no common questions"])
    return markdown(["set", "mask", "minus prompt"], rows)
