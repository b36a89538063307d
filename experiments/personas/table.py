"""The table of all personas from their runs: ``python -m experiments.personas.table DIRECTORY [README]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.figures import Run, finished_runs, interval, number
from experiments.tables import write_block
from persona_prune.common.errors import one_line
from persona_prune.evaluators.statistics import holm

COLUMNS = [
    "persona",
    "accuracy",
    "dense",
    "per token",
    "dense",
    "margin",
    "dense",
    "p (margin)",
    "p, Holm",
    "own answers",
    "ratio",
    "drift",
    "weights dropped",
    "build, s",
]


def main(directory: Path, page: Path | None = None) -> None:
    """Print one line for every persona under ``directory``, and put the tables between the markers of ``page``.

    Of several runs of one persona the latest counts.

    Raises:
        ValueError: no run is finished; the page stays as it is.
    """
    # Other evaluators, methods or dense runs in the same directory are no part of the table, nor of Holm's family.
    runs = {run.persona: run for run in finished_runs(directory) if _belongs(run)}
    if not runs:
        raise ValueError(f"{directory}: no finished run of contrastive_taylor with the choice evaluator")
    types = [run for run in runs.values() if "weights" in run.config["persona"]]
    single = [run for run in runs.values() if "weights" not in run.config["persona"]]
    text = "\n\n".join(table(part) for part in (single, types) if part)
    print(text)
    if page is not None:
        write_block(page, text)


def table(runs: Sequence[Run]) -> str:
    """Return the table of runs, one family for Holm's method."""
    adjusted = holm({place: run.metrics["choice/margin_p"] for place, run in enumerate(runs)})
    rows = [row(run, adjusted[place]) for place, run in enumerate(runs)]
    return "\n".join(["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|", *rows])


def row(run: Run, adjusted: float) -> str:
    """Return one line of the table; ``adjusted`` is the p of its margin among all runs (Holm)."""
    metrics = run.metrics
    cells = [run.persona]
    for metric, form in (("accuracy", ".2f"), ("accuracy_norm", ".2f"), ("margin", "+.2f")):
        cells.append(interval(metrics, f"choice/{metric}", form))
        cells.append(interval(metrics, f"dense/choice/{metric}", form))
    cells.append(number(metrics, "choice/margin_p", ".2g"))
    cells.append(f"{adjusted:.2g}")
    cells.append(number(metrics, "choice/matching_log_prob_delta", "+.2f"))
    cells.append(number(metrics, "capability/perplexity_ratio", ".3f"))
    cells.append(number(metrics, "capability/neutral_drift", "+.3f"))
    cells.append(number(metrics, "mask/sparsity", ".2%"))
    cells.append(number(metrics, "mask/build_s", ".0f"))
    return "| " + " | ".join(cells) + " |"


def _belongs(run: Run) -> bool:
    return run.method == "contrastive_taylor" and "choice/margin_p" in run.metrics


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:3]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
