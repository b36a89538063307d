"""Run directories written by hand, for the tests of the comparison."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

Metrics = dict[str, float]


def config(persona: str = "extrovert", method: str = "wanda", **changes: Any) -> dict[str, Any]:
    settings = {"sparsity": changes.pop("sparsity", 0.2)} if method not in ("none", "prompt") else {}
    return {
        "study": "by hand",
        "seed": 42,
        "output_dir": None,
        "model": {"_target_": "m.M", "name": "tiny", "dtype": "auto"},
        "persona": {"_target_": "p.P", "name": persona, "description": f"Very {persona}.", "flip": False},
        "calibration": {"_target_": "c.EmbeddedCalibration", "limit": None},
        "method": {"_target_": f"x.{method}", "name": method, **settings},
        "evaluator": {"choice": {"_target_": "e.Choice", "limit": None}, "capability": {"_target_": "e.Capability"}},
        "tracker": {"_target_": "t.NoTracker"},
    } | changes


def interval(key: str, value: float, half: float = 0.1) -> Metrics:
    return {key: value, f"{key}_low": value - half, f"{key}_high": value + half}


def metrics(margin: float = 0.4, ratio: float = 1.02, p: float = 0.01, sparsity: float = 0.2) -> Metrics:
    found = {
        **interval("choice/margin", margin),
        **interval("choice/accuracy_norm", 0.75),
        **interval("dense/choice/margin", 0.1),
        **interval("dense/choice/accuracy_norm", 0.5),
        **interval("choice/margin_delta", margin - 0.1),
        **interval("choice/accuracy_norm_delta", 0.25),
        "choice/margin_p": p,
        "capability/perplexity_ratio": ratio,
        **interval("capability/neutral_drift", 0.02, 0.01),
        "mask/sparsity": sparsity,
        "time/total_s": 12.5,
    }
    if math.isfinite(ratio):
        found |= interval("capability/nll_delta", math.log(ratio), 0.01)
    return found


def sample(number: int, margin: float, dense: float = 0.0, prompt: str | None = None) -> dict[str, Any]:
    return {
        "id": number,
        "prompt": prompt or f"Question {number}?",
        "matching": "Yes, all of us.",
        "not_matching": "No, just me.",
        "values": {"margin": margin, "accuracy": float(margin > 0)},
        "dense_values": {"margin": dense, "accuracy": 0.0},
    }


def write_run(
    directory: Path,
    configuration: dict[str, Any] | None = None,
    figures: Metrics | None = None,
    items: list[dict[str, Any]] | None = None,
    status: str = "done",
    error: str | None = None,
) -> Path:
    (directory / ".hydra").mkdir(parents=True)
    (directory / "samples").mkdir()
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(configuration or config(), sort_keys=False))
    (directory / "status.json").write_text(json.dumps({"status": status, "error": error}))
    (directory / "metrics.json").write_text(json.dumps(metrics() if figures is None else figures))
    (directory / "report.html").write_text("<p>its own</p>")
    if items is not None:
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (directory / "samples" / "choice.jsonl").write_text(lines)
    return directory
