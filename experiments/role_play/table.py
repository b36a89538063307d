"""Table 5: questions about a role with several options."""

from pathlib import Path

from experiments.figures import Run, finished_runs, number
from experiments.findings import Finding, controls_of, doubts_of
from experiments.publish import Report
from experiments.tables import markdown, percent, runs_table

_SHORTCUTS = ("chance", "shortest", "longest")


def report(directory: Path, folder: Path) -> Report:
    """Return the figures of both roles, and of CroSS-MR."""
    runs = finished_runs(directory / "role_questions") + finished_runs(directory / "role_play")
    shortcuts = {run.persona: [number(run.metrics, f"multiple_choice/{s}", ".2f") for s in _SHORTCUTS] for run in runs}
    text = [
        "What needs no model:\n\n"
        + markdown(["role", *_SHORTCUTS], [[who, *found] for who, found in shortcuts.items()]),
        runs_table(runs, evaluator="multiple_choice"),
    ]
    return Report(runs, [finding(run) for run in runs], "\n\n".join(text))


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
        doubts=doubts_of([run]),
    )
