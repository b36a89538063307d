"""Reading the figures of runs, for the tables of the experiments."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from persona_prune.common.errors import one_line
from persona_prune.common.json_numbers import load_item
from persona_prune.evaluators.results import EvalResult
from persona_prune.evaluators.statistics import Floats, bootstrap_interval, compare, sign_flip
from persona_prune.saved.finished_runs import Run as FinishedRun
from persona_prune.saved.finished_runs import read_run


def load_samples(run: Path, evaluator: str) -> EvalResult:
    """Return the items of one evaluator as the run in the directory ``run`` left them."""
    lines = (run / "samples" / f"{evaluator}.jsonl").read_text(encoding="utf-8").split("\n")
    return EvalResult([load_item(line) for line in lines if line])


def number(metrics: Mapping[str, float], key: str, form: str) -> str:
    """Return a figure, or nothing where it was not measured."""
    return format(metrics[key], form) if key in metrics else ""


def interval(metrics: Mapping[str, float], key: str, form: str) -> str:
    """Return a figure with its 95% interval."""
    found = Interval.of(metrics, key)
    return found.text(form) if found else ""


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, metrics: Mapping[str, float], key: str) -> "Interval | None":
        """Return the figure ``key`` of a run with its interval; None where it was not measured."""
        if key not in metrics:
            return None
        return cls(metrics[key], metrics[f"{key}_low"], metrics[f"{key}_high"])

    @classmethod
    def mean(cls, values: Sequence[float] | Floats) -> "Interval":
        """Return the mean of ``values`` with its bootstrap interval; raise ValueError if there are none."""
        array = _numbers(values)
        return cls(float(array.mean()), *bootstrap_interval(array))

    def text(self, form: str) -> str:
        """Return ``value [low, high]``."""
        return f"{format(self.value, form)} [{format(self.low, form)}, {format(self.high, form)}]"


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences with the ends of its 95% bootstrap interval and p of a paired test, two-sided."""

    value: float
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, metrics: Mapping[str, float], key: str) -> "Difference | None":
        """Return the difference ``key`` (``..._delta`` or ``..._vs_...``) of a run; None where it was not measured."""
        if key not in metrics:
            return None
        p = metrics[f"{key.removesuffix('_delta')}_p"]
        return cls(metrics[key], metrics[f"{key}_low"], metrics[f"{key}_high"], p)

    @classmethod
    def mean(cls, values: Sequence[float] | Floats) -> "Difference":
        """Return the mean of ``values`` with a sign-flip test; raise ValueError if there are none."""
        array = _numbers(values)
        return cls(float(array.mean()), *bootstrap_interval(array), sign_flip(array))

    def text(self, form: str) -> str:
        """Return ``value [low, high]``."""
        return Interval(self.value, self.low, self.high).text(form)


def _numbers(values: Sequence[float] | Floats) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("no values to take the mean of: the runs share no items")
    return array


@dataclass(frozen=True)
class Run(FinishedRun):
    """A finished run, with what the tables ask of it."""

    @property
    def sparsity(self) -> float | None:
        """Sparsity that was asked for; None for what is no mask."""
        return self.config["method"].get("sparsity")

    @property
    def label(self) -> str:
        """Method and sparsity."""
        if self.method == "none":
            return "dense"
        return self.method.replace("_", " ") + ("" if self.sparsity is None else f" {self.sparsity:g}")

    def figure(self, key: str) -> Interval:
        """Return a figure with its interval; raise ValueError if the run did not measure it."""
        found = Interval.of(self.metrics, key)
        if found is None:
            raise ValueError(f"{self.path}: its metrics.json has no {key}: run it again, or remove it")
        return found

    def difference(self, key: str) -> Difference:
        """Return a difference with interval and p; raise ValueError if the run did not measure it."""
        found = Difference.of(self.metrics, key)
        if found is None:
            raise ValueError(f"{self.path}: its metrics.json has no {key}: run it again, or remove it")
        return found

    @property
    def is_mask(self) -> bool:
        """Whether weights were dropped: only that can be compared with random masks."""
        return "sparsity" in self.config["method"] or self.method == "saved"

    def items(self, evaluator: str) -> EvalResult:
        """Return the items of one evaluator."""
        return load_samples(self.path, evaluator)


def finished_runs(directory: Path) -> list[Run]:
    """Return the finished runs right under ``directory``, the last asked for last; say which are left out, and why."""
    runs = []
    for path in sorted(directory.glob("*/status.json"), key=lambda path: path.stat().st_mtime):
        try:
            found = read_run(path.parent)
        except (ValueError, OSError) as error:
            print(f"left out: {path.parent}: {one_line(error)}", file=sys.stderr)
        else:
            runs.append(Run(found.path, found.config, found.metrics))
    return runs


def last_method(runs: Sequence[Run]) -> list[Run]:
    """Return, of ``runs`` as `finished_runs` orders them, those of the method and sparsity that was last asked for."""
    return [run for run in runs if (run.method, run.sparsity) == (runs[-1].method, runs[-1].sparsity)]


def by_persona(runs: Iterable[Run], method: str, sparsity: float | None) -> dict[str, Run]:
    """Return persona -> its run of ``method`` at ``sparsity``; the latest of several."""
    return {run.persona: run for run in runs if run.method == method and run.sparsity == sparsity}


def paired(first: Run, second: Run, evaluator: str, metric: str) -> Difference | None:
    """Return a figure of one run minus that of another on the items both have; None where they share none."""
    found = compare(first.items(evaluator), second.items(evaluator)).get(metric)
    return Difference(found.delta, found.low, found.high, found.p) if found else None
