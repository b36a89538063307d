"""Tables 4, 10 and 11: seeking power, seeking wealth, and hallucination."""

from pathlib import Path

from experiments.figures import Interval, Run, finished_runs, paired
from experiments.findings import Finding
from experiments.publish import Report
from experiments.tables import markdown, percent, runs_table

_SHORTCUT = 0.95


def report(directory: Path, folder: Path) -> Report:
    """Return what the runs of all sets say."""
    home = directory / "two_way_choice"
    runs = finished_runs(home)
    for group in sorted(home.glob("*-flip_*")):
        runs += finished_runs(group)
    # The latest of a method, towards the answers that the paper is about.
    seeking = {(run.persona, run.method): run for run in runs if not run.config["persona"]["flip"]}
    findings = [finding(run) for run in seeking.values() if run.method != "none"]
    parts = ["Masks against the prompt on the same questions (margin, nats):\n\n" + against_prompt(seeking)]
    parts.append("All runs, with the opposite answers as target where it says so:\n\n" + runs_table(runs, label=_label))
    return Report(runs, findings, "\n\n".join(parts))


def finding(run: Run) -> Finding:
    """Return what a run says about its method: accuracy as in the paper, differences in margin."""
    metrics = run.metrics
    dense = run.figure("dense/choice/accuracy").value
    is_mask = "sparsity" in run.config["method"]
    shortcut = metrics.get("choice/always_yes", 0.0)
    return Finding(
        claim=f"{run.persona}/{run.method}",
        ours=f"{percent(run.figure('choice/accuracy'))} (dense {100 * dense:.1f}%)",
        unit="nats",
        change=run.figure("choice/margin_delta"),
        control=Interval.of(metrics, "choice/margin_vs_random"),
        # Only a mask can be beaten by a random mask.
        control_name="random" if is_mask else "",
        perplexity_ratio=metrics.get("capability/perplexity_ratio") if is_mask else None,
        items=len(run.items("choice").samples),
        obstacle=f"always saying yes scores {shortcut:.0%}" if shortcut >= _SHORTCUT else None,
    )


def against_prompt(runs: dict[tuple[str, str], Run]) -> str:
    """Return, for every mask, the margin minus that of the prompt on the same questions."""
    rows = []
    for (persona, _), run in runs.items():
        prompt = runs.get((persona, "prompt"))
        if prompt is not None and "sparsity" in run.config["method"]:
            found = paired(run, prompt, "choice", "margin")
            rows.append([persona, run.label, found.text("+.2f") if found else "no common questions"])
    return markdown(["set", "mask", "minus prompt"], rows)


def _label(run: Run) -> str:
    return run.label + (", opposite" if run.config["persona"]["flip"] else "")
