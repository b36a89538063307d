"""Table 5: questions about a role with several options."""

from collections.abc import Mapping
from pathlib import Path

from experiments.figures import Run, finished_runs, number
from experiments.findings import Finding, accuracy_doubts, beats, controls_of
from experiments.publish import Report
from experiments.tables import markdown, percent, runs_table

_SHORTCUTS = ("chance", "shortest", "longest")
_ORDER = (("rag", "prompt"), ("wanda", "rag"), ("sparse", "rag"))


def report(directory: Path, folder: Path) -> Report:
    """Return the figures of both roles, and of CroSS-MR."""
    runs = finished_runs(directory / "role_questions") + finished_runs(directory / "role_play")
    shortcuts = {run.persona: [number(run.metrics, f"multiple_choice/{s}", ".2f") for s in _SHORTCUTS] for run in runs}
    text = [
        "What needs no model:\n\n"
        + markdown(["role", *_SHORTCUTS], [[who, *found] for who, found in shortcuts.items()]),
        runs_table(runs, evaluator="multiple_choice"),
    ]
    findings = [finding(run) for run in runs] + between({(run.persona, run.method): run for run in runs})
    return Report(runs, findings, "\n\n".join(text))


def between(runs: Mapping[tuple[str, str], Run]) -> list[Finding]:
    """Return what the paper's order comes to for every role: retrieval above the prompt, masks above both."""
    findings = []
    for role in dict.fromkeys(role for role, _ in runs):
        for first, second in _ORDER:
            if (role, first) in runs and (role, second) in runs:
                found = beats(f"{role}/{first}-{second}", runs[role, first], runs[role, second], "multiple_choice")
                findings += [found] if found else []
    return findings


def finding(run: Run) -> Finding:
    """Return accuracy, and the change of the margin (the role's option minus the mean of the others, nats)."""
    accuracy = run.figure("multiple_choice/accuracy")
    return Finding(
        claim=f"{run.persona}/{run.method}",
        ours=f"{percent(accuracy)} (dense {100 * run.metrics['dense/multiple_choice/accuracy']:.1f}%)",
        unit="nats",
        change=run.difference("multiple_choice/margin_delta"),
        perplexity_ratio=run.metrics.get("capability/perplexity_ratio"),
        items=len(run.items("multiple_choice").samples),
        controls=controls_of(run, "multiple_choice/margin"),
        needs_control=run.is_mask,
        doubts=accuracy_doubts(run, "multiple_choice"),
    )
