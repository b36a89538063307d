"""Tables of the method comparison from its runs: ``python -m experiments.method_comparison.table DIRECTORY``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.figures import interval, load, load_samples, number
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


def main(directory: Path) -> None:
    """Print one table for every persona set and pole under ``directory``."""
    for group in sorted(path for path in directory.iterdir() if path.is_dir()):
        runs = {path.parent: load(path) for path in sorted(group.glob("*/metrics.json"))}
        if not runs:
            continue
        config, _ = next(iter(runs.values()))
        target = "not_matching" if config["persona"]["flip"] else "matching"
        samples = {path: load_samples(path, "choice") for path in runs}
        # A mask without such a control is paired with the run of random masks that drop the same share of every row.
        random = {run["method"]["sparsity"]: samples[path] for path, (run, _) in runs.items() if _is(run, "random")}
        print(f"\n### {config['persona']['name']}, target: the `{target}` answers, test part\n")
        print("| " + " | ".join(COLUMNS) + " |")
        print("|---" * len(COLUMNS) + "|")
        for path, (config, metrics) in sorted(runs.items(), key=lambda run: ORDER.index(run[1][0]["method"]["name"])):
            figures = dict(metrics)
            reference = random.get(config["method"].get("sparsity"))
            if reference is not None and "choice/margin_vs_random" not in metrics and not _is(config, "random"):
                figures |= against(samples[path], reference)
            print(row(config, figures, len(samples[path].samples)))


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
    main(Path(sys.argv[1]))
