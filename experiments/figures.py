"""Reading the figures of runs, for the tables of the experiments."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from persona_prune.evaluators.base import EvalResult
from persona_prune.report.runs import Run as FinishedRun
from persona_prune.statistics import Floats, bootstrap_interval, compare


def load(path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Return configuration and metrics of the run whose ``metrics.json`` is at ``path``."""
    config = yaml.safe_load((path.parent / ".hydra" / "config.yaml").read_text())
    return config, json.loads(path.read_text())


def load_samples(run: Path, evaluator: str) -> EvalResult:
    """Return the items of one evaluator as the run in the directory ``run`` left them."""
    lines = (run / "samples" / f"{evaluator}.jsonl").read_text(encoding="utf-8").splitlines()
    return EvalResult([json.loads(line) for line in lines])


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
        """Return the mean of ``values`` with its bootstrap interval."""
        array = np.asarray(values, dtype=np.float64)
        return cls(float(array.mean()), *bootstrap_interval(array))

    def text(self, form: str) -> str:
        """Return ``value [low, high]``."""
        return f"{format(self.value, form)} [{format(self.low, form)}, {format(self.high, form)}]"


@dataclass(frozen=True)
class Run(FinishedRun):
    """A finished run, with what the tables ask of it."""

    @property
    def persona(self) -> str:
        """Name of the persona; whether its pairs are turned round, a table says for itself."""
        return str(self.config["persona"]["name"])

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

    def items(self, evaluator: str) -> EvalResult:
        """Return the items of one evaluator."""
        return load_samples(self.path, evaluator)


def finished_runs(directory: Path) -> list[Run]:
    """Return the finished runs right under ``directory``, the oldest first."""
    paths = sorted(directory.glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)
    return [Run(path.parent, *load(path)) for path in paths]


def by_persona(runs: Iterable[Run], method: str, sparsity: float | None) -> dict[str, Run]:
    """Return persona -> its run of ``method`` at ``sparsity``; the latest of several."""
    return {run.persona: run for run in runs if run.method == method and run.sparsity == sparsity}


def paired(first: Run, second: Run, evaluator: str, metric: str) -> Interval | None:
    """Return a figure of one run minus that of another on the items both have; None where they share none."""
    found = compare(first.items(evaluator), second.items(evaluator)).get(metric)
    return Interval(found.delta, found.low, found.high) if found else None
