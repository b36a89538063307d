"""Table 6: what a persona's mask costs in knowledge and common sense."""

from pathlib import Path

import numpy as np

from experiments.figures import Difference, Run, finished_runs, interval
from experiments.findings import Finding
from experiments.publish import Report
from experiments.tables import markdown
from persona_prune.evaluators.statistics import bootstrap_interval

_ITEM = "local_questions/acc"
_ACCURACY = f"lm_eval/{_ITEM}"
_TOLERATED = 0.05
_ENOUGH = 60


def report(directory: Path, folder: Path) -> Report:
    """Return accuracy of dense, masked and randomly masked model on every set."""
    runs = {(set_of(run), run.label): run for run in finished_runs(directory / "capability_local")}
    findings = {f"{name}/{run.method}": finding(run) for (name, _), run in runs.items()}
    rows = []
    for (name, label), run in runs.items():
        arms = [interval(run.metrics, f"{arm}{_ACCURACY}", ".3f") for arm in ("dense/", "", "random/")]
        change = interval(run.metrics, f"{_ACCURACY}_delta", "+.3f")
        rows.append([name, label, *arms, change, f"{run.metrics['capability/perplexity_ratio']:.3g}"])
    columns = ["set", "mask", "dense", "masked", "random mask", "masked - dense", "perplexity ratio"]
    return Report(list(runs.values()), list(findings.values()), markdown(columns, rows))


def finding(run: Run) -> Finding:
    """Return the change of accuracy, counted from a loss of five points: above zero is less than that.

    p is that of a t-test, and for a smaller loss at least the exact one of so few losses where every twentieth question
    is lost: no loss at all among few questions shows little.
    """
    from scipy.stats import binomtest, ttest_1samp

    samples = run.items("lm_eval").samples
    changed = np.array([sample["values"][_ITEM] - sample["dense_values"][_ITEM] for sample in samples])
    low, high = bootstrap_interval(changed)
    p = 0.0 if np.ptp(changed) == 0 else float(ttest_1samp(changed, -_TOLERATED).pvalue)
    if changed.mean() > -_TOLERATED:
        exact = binomtest(int((changed < 0).sum()), len(changed), _TOLERATED, alternative="less").pvalue
        p = max(p, min(1.0, 2 * exact))
    return Finding(
        claim=f"{set_of(run)}/{run.method}",
        ours=f"{run.metrics[f'dense/{_ACCURACY}']:.3f} to {run.figure(_ACCURACY).text('.3f')}",
        unit="above a loss of 0.05",
        change=Difference(float(changed.mean()) + _TOLERATED, low + _TOLERATED, high + _TOLERATED, p),
        perplexity_ratio=run.metrics["capability/perplexity_ratio"],
        items=len(samples),
        about_cost=True,
        # Of fewer, a mask that breaks one answer in twenty may well break none.
        obstacle=None if len(samples) >= _ENOUGH else f"{len(samples)} questions are too few for a loss of five points",
    )


def set_of(run: Run) -> str:
    """Return the name of the file that was asked."""
    return Path(run.config["evaluator"]["lm_eval"]["metadata"]["local_questions"]).stem
