"""Tables of the method comparison: ``python -m experiments.method_comparison.table DIRECTORY [README]``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.figures import interval, load, load_samples, number
from experiments.tables import write_block
from persona_prune.evaluators.base import EvalResult
from persona_prune.statistics import compare

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
BUILD = ("generic", "signature", "gradient", "mask", "baseline")


def main(directory: Path, page: Path | None = None) -> None:
    """Print a table for every set and pole under ``directory``, and put them between the markers of ``page``."""
    groups = sorted(path for path in directory.iterdir() if path.is_dir())
    text = "\n\n".join(filter(None, map(table, groups)))
    print(text)
    if page is not None:
        write_block(page, text)


def table(group: Path) -> str:
    """Return the table of the runs in one directory, with its heading; nothing where there are none."""
    runs = {path.parent: load(path) for path in sorted(group.glob("*/metrics.json"))}
    if not runs:
        return ""
    config, _ = next(iter(runs.values()))
    target = "not_matching" if config["persona"]["flip"] else "matching"
    samples = {path: load_samples(path, "choice") for path in runs}
    # A mask without such a control is paired with the run of random masks that drop the same share of every row.
    random = {run["method"]["sparsity"]: samples[path] for path, (run, _) in runs.items() if _is(run, "random")}
    lines = [f"### {config['persona']['name']}, target: the `{target}` answers, test part", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for path, (config, metrics) in sorted(runs.items(), key=lambda run: ORDER.index(run[1][0]["method"]["name"])):
        figures = dict(metrics)
        reference = random.get(config["method"].get("sparsity"))
        if reference is not None and "choice/margin_vs_random" not in metrics and not _is(config, "random"):
            figures |= against(samples[path], reference)
        lines.append(row(config, figures, len(samples[path].samples)))
    return "\n".join(lines)


def against(result: EvalResult, reference: EvalResult) -> dict[str, float]:
    """Return the margin of one run minus that of a run of random masks, as a run with that control reports it."""
    found, key = compare(result, reference)["margin"], "choice/margin_vs_random"
    return {key: found.delta, f"{key}_low": found.low, f"{key}_high": found.high, f"{key}_p": found.p}


def row(config: Mapping[str, Any], metrics: Mapping[str, float], items: int) -> str:
    """Return one line of a table; ``items`` is how many questions were asked."""
    method = config["method"]
    name = method["name"] + (f" {method['sparsity']:g}" if "sparsity" in method else "")
    cells = [name if method["name"] != "none" else "dense", str(items)]
    for metric in ("accuracy", "accuracy_norm", "accuracy_content", "margin"):
        cells.append(interval(metrics, f"choice/{metric}", "+.2f" if metric == "margin" else ".3f"))
    cells.append(number(metrics, "choice/accuracy_norm_p", ".2g"))
    cells.append(number(metrics, "choice/margin_p", ".2g"))
    cells.append(number(metrics, "choice/matching_log_prob_delta", "+.2f"))
    for control in ("random", "generic", "opposite"):
        key = f"choice/margin_vs_{control}"
        cells.append(f"{interval(metrics, key, '+.2f')} p={metrics[f'{key}_p']:.2g}" if key in metrics else "")
    cells.append(number(metrics, "capability/perplexity_ratio", ".3f"))
    cells.append(number(metrics, "capability/neutral_drift", "+.3f"))
    cells.append(number(metrics, "capability/neutral_first_word_shift", ".3f"))
    seconds = metrics.get("mask/build_s", sum(metrics.get(f"time/{stage}_s", 0.0) for stage in BUILD))
    cells.append(f"{seconds:.0f}")
    cells.append(f"{metrics['mask/bytes'] / 1e6:.3g}")
    return "| " + " | ".join(cells) + " |"


def _is(config: Mapping[str, Any], method: str) -> bool:
    return bool(config["method"]["name"] == method)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
