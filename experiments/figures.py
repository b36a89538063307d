"""Reading the figures of runs, for the tables of the experiments."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from persona_prune.evaluators.base import EvalResult


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
    if key not in metrics:
        return ""
    low, high = (format(metrics[f"{key}_{end}"], form) for end in ("low", "high"))
    return f"{format(metrics[key], form)} [{low}, {high}]"
