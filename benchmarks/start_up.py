"""From the command to the first forward pass."""

import json
import subprocess
import sys
import time

from benchmarks.measure import Ratio, exactly, ratio
from benchmarks.rows import Row
from benchmarks.setting import Setting

# As a run begins: its imports, its configuration, its model.
_PRODUCT = """
import sys
import torch
import persona_prune.run
from benchmarks.setting import plan
loaded = plan(*sys.argv[1:]).model.load()
with torch.inference_mode():
    loaded.model(input_ids=torch.zeros(1, 8, dtype=torch.long, device=loaded.model.device))
"""
_FLOOR = """
import sys
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
with torch.inference_mode():
    model(input_ids=torch.zeros(1, 8, dtype=torch.long))
"""
_RUNS = 3
_HEAVY = ("datasets", "lm_eval", "matplotlib", "pandas", "peft", "scipy", "sklearn", "statsmodels", "wandb")
_IMPORTED = f"""
import json, sys
import persona_prune.run
print(json.dumps([name for name in {_HEAVY!r} if name in sys.modules]))
"""


def measure(setting: Setting) -> list[Row]:
    """Time whole processes, from a warm cache, and say which heavy libraries an import of the program brings in."""
    directory = setting.loaded.model.config._name_or_path
    seconds: dict[str, list[float]] = {"product": [], "floor": []}
    for _ in range(_RUNS + 1):
        seconds["product"].append(_timed(_PRODUCT, f"model={setting.model}", f"model.dtype={setting.dtype}"))
        if directory:
            seconds["floor"].append(_timed(_FLOOR, directory))
    # The first of each reads from the disk what the others find in memory.
    warm = {name: times[1:] for name, times in seconds.items() if times}
    whole = ratio(warm["product"], [1.0] * len(warm["product"]))
    imported = json.loads(_run(_IMPORTED))
    what = "start-up to the first forward pass"
    rows = [Row("start_up", what, "seconds", whole, at_most=6.0, unit="s", detail={"seconds": seconds})]
    if directory:
        slower: Ratio = ratio(warm["product"], warm["floor"])
        rows.append(Row("start_up", what, "product / torch, transformers and the weights alone", slower))
    named = ", ".join(imported) or "none"
    rows.append(
        Row("start_up", "heavy libraries imported at start", named, exactly(len(imported)), at_most=0.0, unit="")
    )
    return rows


def _timed(code: str, *arguments: str) -> float:
    started = time.perf_counter()
    _run(code, *arguments)
    return time.perf_counter() - started


def _run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"start-up failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout
