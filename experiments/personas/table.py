"""The table of all personas from their runs: ``python -m experiments.personas.table DIRECTORY [README]``."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.figures import interval, load, number
from experiments.tables import write_block
from persona_prune.statistics import holm

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
    """Print one line for every run under ``directory``, and put the tables between the markers of ``page``."""
    found = [load(path) for path in sorted(directory.glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)]
    # Other evaluators, methods or dense runs in the same directory are no part of the table, nor of Holm's family.
    runs = [(config, metrics) for config, metrics in found if _belongs(config, metrics)]
    types = [(config, metrics) for config, metrics in runs if "weights" in config["persona"]]
    single = [(config, metrics) for config, metrics in runs if "weights" not in config["persona"]]
    text = "\n\n".join(table(part) for part in (single, types) if part)
    print(text)
    if page is not None:
        write_block(page, text)


def table(runs: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]) -> str:
    """Return the table of runs, one family for Holm's method."""
    adjusted = holm({place: metrics["choice/margin_p"] for place, (_, metrics) in enumerate(runs)})
    rows = [row(config, metrics, adjusted[place]) for place, (config, metrics) in enumerate(runs)]
    return "\n".join(["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|", *rows])


def row(config: Mapping[str, Any], metrics: Mapping[str, float], adjusted: float) -> str:
    """Return one line of the table; ``adjusted`` is the p of its margin among all runs (Holm)."""
    cells = [config["persona"]["name"]]
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


def _belongs(config: Mapping[str, Any], metrics: Mapping[str, float]) -> bool:
    return config["method"]["name"] == "contrastive_taylor" and "choice/margin_p" in metrics


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
