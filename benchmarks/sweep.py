"""A sweep from the command line: what it takes beside its signature and its evaluations."""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import exactly
from benchmarks.rows import Row
from benchmarks.setting import Setting

_METHODS = "wanda,contrastive_wanda"
_LESS_TEXT = "evaluator.capability.max_text_tokens=2048"
_SPARSITIES = ("0.05", "0.1", "0.2", "0.3", "0.4", "0.6")


def measure(setting: Setting) -> list[Row]:
    """Run two methods at two sparsities and a quarter of the text; for ``--full``, at six, as the default evaluates."""
    chosen = _SPARSITIES if setting.full else _SPARSITIES[1::3]
    small = ["evaluator.choice.limit=2", "evaluator.capability.max_text_tokens=64", "calibration.limit=4"]
    with TemporaryDirectory() as directory:
        command = [
            *(sys.executable, "-m", "persona_prune.run", "--multirun"),
            *(f"model={setting.model}", f"model.dtype={setting.dtype}", "tracker=none", "controls=[]"),
            *(f"method={_METHODS}", f"method.sparsity={','.join(chosen)}", f"output_dir={directory}"),
            *(small if setting.quick else [] if setting.full else [_LESS_TEXT]),
        ]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            raise ValueError(f"the sweep failed: {done.stderr.strip().splitlines()[-1]}")
        stages = [json.loads(file.read_text()) for file in sorted(Path(directory).glob("*/metrics.json"))]
    jobs = len(_METHODS.split(",")) * len(chosen)
    if len(stages) != jobs:
        raise ValueError(f"the sweep left {len(stages)} runs behind, expected {jobs}")
    signature = sum(stage["time/signature_s"] for stage in stages)
    evaluations = sum(stage["time/evaluate_s"] for stage in stages)
    by_stage: dict[str, float] = {}
    for stage in stages:
        for key, value in stage.items():
            if key.startswith("time/"):
                by_stage[key] = by_stage.get(key, 0.0) + value
    return [
        Row(
            "sweep",
            f"sweep of 2 methods x {len(chosen)} sparsities",
            f"whole process / signatures and {jobs} evaluations",
            exactly(seconds / (signature + evaluations)),
            at_most=1.15,
            detail={"seconds": seconds, "stages": by_stage},
        )
    ]
