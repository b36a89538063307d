"""Figures with their intervals, and the ones a table of runs shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from persona_prune.evaluators.statistics import holm
from persona_prune.saved.finished_runs import Run

RATIO, DRIFT = "capability/perplexity_ratio", "capability/neutral_drift"
_TESTED = ("speech/expressed", "choice/margin", "multiple_choice/margin")
_CONTROLS = ("random", "magnitude", "generic", "opposite")
_MOST_TASKS = 6


@dataclass(frozen=True)
class Figure:
    """A number with the ends of its 95% interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    def text(self, form: str) -> str:
        """Return the number, and its interval in brackets."""
        return f"{self.value:{form}} {self.interval(form)}".strip()

    def interval(self, form: str) -> str:
        """Return the interval in brackets; nothing where there is none."""
        return "" if self.low is None or self.high is None else f"[{self.low:{form}}, {self.high:{form}}]"


def figure(metrics: Mapping[str, float], key: str) -> Figure | None:
    """Return a figure with its interval; None where it was not measured, or is not finite.

    The perplexity ratio takes its interval from the paired difference of the windows' mean negative log-likelihoods,
    whose exponential it is wherever all windows are equally long.
    """
    value = metrics.get(key, math.nan)
    if not math.isfinite(value):
        return None
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    if key == RATIO and value > 0 and "capability/nll_delta_low" in metrics:
        delta, *ends = (metrics[f"capability/nll_delta{end}"] for end in ("", "_low", "_high"))
        if math.isclose(math.log(value), delta, abs_tol=1e-4) and max(ends) < 700:
            low, high = (math.exp(end) for end in ends)
    return Figure(value, low, high)


def costs(run: Run) -> list[str]:
    """Return perplexity ratio and neutral drift with their intervals, as text."""
    ratio, drift = figure(run.metrics, RATIO), figure(run.metrics, DRIFT)
    return [ratio.text(".3f") if ratio else "not measured", drift.text("+.3f") if drift else "not measured"]


@dataclass(frozen=True)
class Column:
    """A column of the table of runs: a metric, its heading, format, and what it means."""

    key: str
    title: str
    form: str
    meaning: str


def columns(runs: Sequence[Run], adjusted: Sequence[Mapping[str, float]]) -> list[Column]:
    """Return the columns that at least one run has a figure for; capability stands next to alignment."""
    cost = [
        Column(RATIO, "perplexity ratio", ".3f", "perplexity on held-out text, persona / dense"),
        Column(DRIFT, "neutral drift", "+.3f", "nats per token that the dense model's own answers lose"),
    ]
    found = [*_SPEECH, *_alignment("choice", ""), *cost, *_alignment("multiple_choice", "options: ")]
    keys = dict.fromkeys(key for run in runs for key in run.metrics)
    tasks = [key for key in keys if key.startswith("lm_eval/") and key.endswith(("/acc", "/acc_norm", "/exact_match"))]
    found += [Column(key, key.removeprefix("lm_eval/"), ".3f", "lm-eval's figure") for key in tasks[:_MOST_TASKS]]
    found.append(Column("mask/sparsity", "weights dropped", ".2%", "share of the maskable weights"))
    found.append(Column("time/total_s", "seconds", ".0f", "of the whole run"))
    measured = {key for key in keys if any(key in run.metrics for run in runs)} | {k for one in adjusted for k in one}
    return [column for column in found if column.key in measured]


_SPEECH = (
    Column("speech/expressed", "heard", ".2f", "share of answers that are coherent, on topic, and in persona"),
    Column("speech/expressed_delta", "heard - dense", "+.2f", "against the dense model's answers to the same prompts"),
    Column("speech/expressed_p", "p", ".2g", "paired test of heard - dense"),
    Column("speech/expressed_p_holm", "p, Holm", ".2g", "the same, corrected over all tests of this table"),
    Column("speech/persona", "judges", ".2f", "probability, by the judges of text, that the persona speaks"),
    Column("speech/coherent", "coherent", ".2f", "share of open answers that are text and no echo"),
)


def _alignment(evaluator: str, prefix: str) -> list[Column]:
    columns = [
        Column("accuracy", "accuracy", ".2f", "share of items where the persona's answer is likelier, in sum"),
        Column("accuracy_norm", "per token", ".2f", "the same per token"),
        Column("margin", "margin", "+.2f", "nats per token, the persona's answer minus the other"),
        Column("margin_delta", "margin - dense", "+.2f", "against the dense model on the same items"),
        Column("margin_p", "p", ".2g", "paired test of margin - dense"),
        Column("margin_p_holm", "p, Holm", ".2g", "the same, corrected over all tests of this table"),
        *(
            Column(f"margin_vs_{name}", f"margin - {name}", "+.2f", f"against the control mask '{name}'")
            for name in _CONTROLS
        ),
        Column("matching_log_prob_delta", "own answers", "+.2f", "nats per token the persona's own answers gained"),
    ]
    return [Column(f"{evaluator}/{c.key}", prefix + c.title, c.form, c.meaning) for c in columns]


def holm_adjusted(runs: Sequence[Run]) -> list[dict[str, float]]:
    """Return run by run the p-values of its margins' tests against dense, as Holm adjusts them over all runs.

    The keys are those of the tests' p with ``_holm``.
    """
    family = {
        (number, f"{key}_p_holm"): run.metrics[f"{key}_p"]
        for number, run in enumerate(runs)
        for key in _TESTED
        if math.isfinite(run.metrics.get(f"{key}_p", math.nan))
    }
    adjusted: list[dict[str, float]] = [{} for _ in runs]
    for (number, key), p in holm(family).items():
        adjusted[number][key] = p
    return adjusted
