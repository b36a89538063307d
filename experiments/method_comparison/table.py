"""Tables of the method comparison: ``python -m experiments.method_comparison.table DIRECTORY [README]``."""

import sys
from collections.abc import Mapping
from pathlib import Path

from experiments.figures import Run, finished_runs, interval, number
from experiments.publish import alike
from experiments.tables import write_block
from persona_prune.common.errors import one_line
from persona_prune.evaluators.results import EvalResult
from persona_prune.evaluators.statistics import compare
from persona_prune.report.verdict import WRECKED

ORDER = [
    "none",
    "prompt",
    "rag",
    "steering",
    "lora",
    "random",
    "magnitude",
    "wanda",
    "sparse",
    "contrastive_wanda",
    "contrastive_sparse",
    "contrastive_taylor",
]
COLUMNS = [
    "method",
    "prompts",
    "heard",
    "judges",
    "vectors / n-grams",
    "coherent",
    "on topic",
    "above dense",
    "fluency",
    "p (heard)",
    "items",
    "accuracy",
    "per token",
    "content",
    "margin",
    "p (per token)",
    "p (margin)",
    "own answers",
    "margin - random",
    "margin - generic",
    "margin - opposite",
    "perplexity ratio",
    "neutral drift",
    "first-word shift",
    "build, s",
    "stored, MB",
]
RATIO = "capability/perplexity_ratio"
PROMPTED = "with_prompt/"
BUILD = ("generic", "signature", "gradient", "mask", "baseline")


def main(directory: Path, page: Path | None = None) -> None:
    """Print a table for every set and pole under ``directory``, and put them between the markers of ``page``.

    Raises:
        ValueError: no run is finished, or runs can't stand in one table; the page stays as it is.
    """
    groups = sorted(path for path in directory.glob("*") if path.is_dir())
    text = "\n\n".join(filter(None, map(table, groups)))
    if not text:
        raise ValueError(f"{directory}: no finished run")
    print(text)
    if page is not None:
        write_block(page, text)


def table(group: Path) -> str:
    """Return the table of the runs in one directory, with its heading; nothing where there are none."""
    runs = finished_runs(group)
    if not runs:
        return ""
    alike(runs)
    persona = runs[0].config["persona"]
    target = "not_matching" if persona["flip"] else "matching"
    items = {run.path: run.items("choice") for run in runs}
    random = {run.sparsity: run for run in runs if run.method == "random"}
    lines = [f"### {persona['name']}, target: the `{target}` answers, test part", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for run in sorted(runs, key=lambda run: ORDER.index(run.method)):
        figures = dict(run.metrics)
        reference = random.get(run.sparsity)
        if reference is not None and "choice/margin_vs_random" not in figures and by_rows(run):
            figures |= against(items[run.path], items[reference.path])
            if RATIO in reference.metrics:
                figures[f"random/{RATIO}"] = reference.metrics[RATIO]
        lines.append(row(run.label, figures, len(items[run.path].samples)))
        prompted = under_prompt(run.metrics)
        if prompted:
            lines.append(row(f"{run.label} and prompt", prompted, len(items[run.path].samples)))
    return "\n".join(lines)


def by_rows(run: Run) -> bool:
    """Return whether a mask without a random control of its own drops the same share of every row as random ones do."""
    settings = run.config["method"]
    return run.method != "random" and not settings.get("overrides") and settings.get("allocation", "row") == "row"


def against(result: EvalResult, reference: EvalResult) -> dict[str, float]:
    """Return the margin of one run minus that of a run of random masks, as a run with that control reports it."""
    found, key = compare(result, reference)["margin"], "choice/margin_vs_random"
    return {key: found.delta, f"{key}_low": found.low, f"{key}_high": found.high, f"{key}_p": found.p}


def under_prompt(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return a run's figures of its mask under the persona's prompt, as if they were its own; empty if none were taken.

    What the mask took to build and to store is the same; the prompt comes to less than a hundred bytes.
    """
    found = {key.removeprefix(PROMPTED): value for key, value in metrics.items() if key.startswith(PROMPTED)}
    same = {key: value for key, value in metrics.items() if key.startswith(("mask/", "time/"))}
    return same | found if found else {}


def row(label: str, metrics: Mapping[str, float], items: int) -> str:
    """Return one line of a table; ``items`` is how many questions were asked."""
    cells = [label, *speech(metrics), str(items)]
    for metric in ("accuracy", "accuracy_norm", "accuracy_content", "margin"):
        cells.append(interval(metrics, f"choice/{metric}", "+.2f" if metric == "margin" else ".3f"))
    cells.append(number(metrics, "choice/accuracy_norm_p", ".2g"))
    cells.append(number(metrics, "choice/margin_p", ".2g"))
    cells.append(number(metrics, "choice/matching_log_prob_delta", "+.2f"))
    for control in ("random", "generic", "opposite"):
        key = f"choice/margin_vs_{control}"
        wrecked = "" if metrics.get(f"{control}/{RATIO}", 1.0) <= WRECKED else " (wrecked)"
        cells.append(f"{interval(metrics, key, '+.2f')} p={metrics[f'{key}_p']:.2g}{wrecked}" if key in metrics else "")
    cells.append(number(metrics, RATIO, ".3f"))
    cells.append(number(metrics, "capability/neutral_drift", "+.3f"))
    cells.append(number(metrics, "capability/neutral_first_word_shift", ".3f"))
    seconds = metrics.get("mask/build_s", sum(metrics.get(f"time/{stage}_s", 0.0) for stage in BUILD))
    cells.append(f"{seconds:.0f}")
    cells.append(f"{metrics['mask/bytes'] / 1e6:.3g}")
    return "| " + " | ".join(cells) + " |"


def speech(metrics: Mapping[str, float]) -> list[str]:
    """Return what was heard, as cells; empty ones where nothing was said."""
    judges = [number(metrics, f"speech/persona_{name}", ".2f") for name in ("vectors", "ngrams")]
    return [
        number(metrics, "speech/prompts", ".0f"),
        interval(metrics, "speech/expressed", ".2f"),
        interval(metrics, "speech/persona", ".2f"),
        " / ".join(filter(None, judges)),
        number(metrics, "speech/coherent", ".2f"),
        number(metrics, "speech/on_topic", ".2f"),
        interval(metrics, "speech/above_dense", ".2f"),
        number(metrics, "speech/fluency", "+.2f"),
        number(metrics, "speech/expressed_p", ".2g"),
    ]


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:3]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
