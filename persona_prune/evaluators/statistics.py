"""Intervals and paired tests over items; scipy does the mathematics.

It is imported where it is needed: together with statsmodels (and so pandas) it takes as long as a model takes to load.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persona_prune.evaluators.results import EvalResult
from persona_prune.personas.pairs import normalise

Floats = NDArray[np.float64]

RESAMPLES = 10_000
SMALLEST_P = 2 / (RESAMPLES + 1)
"""Of a sign-flip test that is not exact, for 14 items or more."""


def summarise(result: EvalResult) -> dict[str, float]:
    """Return every metric of ``result``; item metrics with the ends of their 95% bootstrap interval.

    ``<metric>_low`` and ``<metric>_high`` are percentiles of the mean over resampled items, or questions where several
    items ask the same one (with other options, say).
    """
    figures: dict[str, float] = dict(result.metrics)
    for metric, mean in result.means().items():
        items = item_values(result.samples, metric)
        low, high = bootstrap_interval(np.array([*items.values()]), _questions(result.samples, items))
        figures |= {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
    return figures


@dataclass(frozen=True)
class Comparison:
    """A paired difference of means over items.

    Attributes:
        delta: the difference.
        low, high: ends of its 95% bootstrap interval.
        p: two-sided, of a paired test; NaN where a difference is no number.
        effect: the difference over the standard deviation of the paired differences (Cohen's d_z); 0 where nothing
            differs, and infinite where all items differ by the same.
    """

    delta: float
    low: float
    high: float
    p: float
    effect: float


def compare(result: EvalResult, reference: EvalResult) -> dict[str, Comparison]:
    """Return, by item metric, the paired difference ``result - reference`` over the items both have.

    The test is McNemar's exact one where all values are 0 or 1, else a sign-flip permutation test of the mean. Where
    several items ask the same question, all of them are resampled, and flipped, together.
    """
    comparisons: dict[str, Comparison] = {}
    for metric in result.means():
        ours, theirs = item_values(result.samples, metric), item_values(reference.samples, metric)
        shared = [item for item in ours if item in theirs]
        if not shared:
            continue
        first = np.array([ours[item] for item in shared])
        second = np.array([theirs[item] for item in shared])
        difference = first - second
        questions = _questions(result.samples, shared)
        low, high = bootstrap_interval(difference, questions)
        sums: Floats = np.bincount(questions, weights=difference).astype(float)
        binary = len(sums) == len(shared) and bool(np.isin(np.concatenate([first, second]), (0.0, 1.0)).all())
        p = mcnemar(difference) if binary else sign_flip(sums)
        comparisons[metric] = Comparison(float(difference.mean()), low, high, p, effect_size(difference))
    return comparisons


def average(results: Sequence[EvalResult]) -> EvalResult:
    """Return one result whose item values are the means over ``results`` of the same items (seeds, say)."""
    if len(results) == 1:
        return results[0]
    samples = []
    for same in zip(*(result.samples for result in results), strict=True):
        metrics = same[0]["values"]
        values = {metric: _mean([sample["values"][metric] for sample in same]) for metric in metrics}
        samples.append({**same[0], "values": values})
    metrics = {m: float(np.mean([result.metrics[m] for result in results])) for m in results[0].metrics}
    return EvalResult(samples, metrics)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of those that apply; one seed's answer may be unreadable where another's is not."""
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def item_values(samples: Sequence[Mapping[str, Any]], metric: str) -> dict[Any, float]:
    """Return item id -> value for the items the metric applies to."""
    return {s["id"]: s["values"][metric] for s in samples if s["values"].get(metric) is not None}


def _questions(samples: Sequence[Mapping[str, Any]], items: Collection[Any]) -> NDArray[np.intp]:
    """Return a number for the question of each of ``items``.

    Items with one prompt and an option in common ask the same question, and depend on each other; a prompt alone may
    stand before every item of a set.
    """
    wanted = set(items)
    options = {sample["id"]: _options(sample) for sample in samples if sample["id"] in wanted}
    labels: list[int] = []
    of_option: dict[tuple[str, str], int] = {}
    for number, item in enumerate(items):
        known = {of_option[option] for option in options.get(item, ()) if option in of_option}
        label = min(known, default=number)
        if len(known) > 1:
            labels = [label if other in known else other for other in labels]
            of_option = {option: label if other in known else other for option, other in of_option.items()}
        labels.append(label)
        of_option |= dict.fromkeys(options.get(item, ()), label)
    return np.unique(labels, return_inverse=True)[1]


def _options(sample: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "prompt" not in sample:  # a questionnaire's statement: its options are the scale that all are answered on
        return []
    prompt = normalise(str(sample["prompt"]))
    texts = [sample[key] for key in ("matching", "not_matching") if key in sample] or sample.get("options") or []
    return [(prompt, str(text)) for text in texts]


def bootstrap_interval(values: Floats, questions: NDArray[np.intp] | None = None) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the mean; the mean itself, twice, for a single value.

    NaN where a value is not finite: nothing can be said of their mean.

    Args:
        values: one an item.
        questions: a number from 0 an item; items of one number are resampled together. None: each has its own.
    """
    if not np.isfinite(values).all():
        return math.nan, math.nan
    sizes = np.ones(len(values)) if questions is None else np.bincount(questions).astype(float)
    if len(sizes) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    from scipy import stats

    alone = len(sizes) == len(values)
    sums = values if questions is None or alone else np.bincount(questions, weights=values)
    result = stats.bootstrap(
        (sums,) if alone else (sums, sizes),
        np.mean if alone else _ratio,
        n_resamples=RESAMPLES,
        method="percentile",
        paired=not alone,
        rng=np.random.default_rng(0),
        batch=max(1, 10_000_000 // len(sums)),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _ratio(sums: Floats, sizes: Floats, axis: int) -> Floats:
    total: Floats = sums.sum(axis=axis) / sizes.sum(axis=axis)
    return total


def effect_size(difference: Floats) -> float:
    """Return Cohen's d_z of paired differences: their mean over their sample standard deviation."""
    mean = float(difference.mean())
    if mean == 0:
        return 0.0
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    return mean / spread if spread else float(np.copysign(np.inf, mean))


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """Return the p-values of a family of tests (a sweep, say) as Holm's step-down method adjusts them."""
    if not p_values:
        return {}
    from statsmodels.stats.multitest import multipletests

    _, adjusted, _, _ = multipletests(list(p_values.values()), method="holm")
    return dict(zip(p_values, adjusted.tolist(), strict=True))


def mcnemar(difference: Floats) -> float:
    """Return McNemar's exact two-sided p from paired differences in {-1, 0, 1}; 1.0 if there are only ties."""
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    if better + worse == 0:
        return 1.0
    from scipy import stats

    return float(stats.binomtest(better, better + worse, 0.5).pvalue)


def sign_flip(difference: Floats) -> float:
    """Return the two-sided p-value of the mean under random sign flips of the paired differences.

    NaN where one of them is not finite: nothing can be said of their mean.
    """
    if not np.isfinite(difference).all():
        return math.nan
    if not difference.any():
        return 1.0
    if len(difference) < 2:
        return 1.0
    from scipy import stats

    result = stats.permutation_test(
        (difference, np.zeros_like(difference)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
        batch=max(1, 10_000_000 // len(difference)),
    )
    return float(result.pvalue)


def compared(name: str, result: EvalResult, reference: EvalResult, label: str, p_label: str) -> dict[str, float]:
    """Return the figures of `compare`, by ``<name>/<metric>_<label>``, with ends, p and effect size."""
    figures: dict[str, float] = {}
    for metric, found in compare(result, reference).items():
        key = f"{name}/{metric}_{label}"
        figures |= {key: found.delta, f"{key}_low": found.low, f"{key}_high": found.high}
        figures[f"{name}/{metric}_{p_label}"] = found.p
        if label == "delta" and np.isfinite(found.effect):
            figures[f"{name}/{metric}_effect"] = found.effect
    return figures
