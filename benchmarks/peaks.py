"""Peak memory, each in a process of its own: ``python -m benchmarks.peaks NAME MODEL DTYPE [...] [quick]``."""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import mask, taylor
from benchmarks.setting import BATCH, Setting, spec
from persona_prune.calibration import gradients, objectives
from persona_prune.calibration.signatures import input_hooks
from persona_prune.masks.switching import PersonaSwitcher
from persona_prune.methods.base import build_masks
from persona_prune.models.devices import peak_host_memory_mb
from persona_prune.models.likelihood import Answer
from persona_prune.models.rows import batches

_MB = 2**20


def main(arguments: list[str]) -> dict[str, float]:
    """Load the model, do what is asked for, and return what it took, in MB."""
    name, model, dtype, *rest = arguments
    importlib.import_module("transformers.models.llama.modeling_llama")  # what loading would bring in
    before = peak_host_memory_mb()
    loaded = spec(model, dtype).load()
    setting = Setting(model, dtype, loaded, "quick" in rest, False, 1, lambda line: None)
    weights = sum(parameter.nbytes for parameter in loaded.model.parameters()) / _MB
    work = {"signature": _signature, "mask": _mask, "switch": _switch, "taylor": _taylor}[name]
    extra = work(setting, rest)
    # What the libraries take before any model is loaded is no part of it.
    return {"used_mb": peak_host_memory_mb() - before, "weights_mb": weights, "libraries_mb": before, **extra}


def _signature(setting: Setting, _: list[str]) -> dict[str, float]:
    setting.signature(setting.rows(setting.pairs()[:BATCH]))
    return {}


def _mask(setting: Setting, _: list[str]) -> dict[str, float]:
    target, contrast = setting.signature(setting.rows(setting.pairs()[:2]))
    build_masks(setting.linears, mask.method_of("wanda"), target, contrast, {})  # type: ignore[arg-type]
    return {}


def _switch(setting: Setting, _: list[str]) -> dict[str, float]:
    target, contrast = setting.signature(setting.rows(setting.pairs()[:2]))
    own, other = build_masks(setting.linears, mask.method_of("wanda"), target, contrast, {})  # type: ignore[arg-type]
    with PersonaSwitcher(setting.loaded, {"own": own, "other": other}) as switcher:
        for name in ("own", "other", "own"):
            switcher.switch(name)
        return {"switcher_mb": switcher.bytes / _MB}


def _taylor(setting: Setting, rest: list[str]) -> dict[str, float]:
    """Run the largest batch that the calibration pairs have backward, twice, and count what has to be kept of it.

    That is what autograd saves, and what the Linears read: the sketches need it, though autograd doesn't.
    """
    rank = taylor.KINDS[rest[0]]
    rows = setting.rows(setting.pairs())
    rows = [rows[i] for i in list(batches(rows, BATCH // 2))[-1]]
    weights = {parameter.untyped_storage().data_ptr() for parameter in setting.loaded.model.parameters()}
    kept: dict[int, int] = {}
    forward_done = False

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and not forward_done:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def objective(indices: Sequence[int], answers: list[list[Answer]]) -> Tensor:
        nonlocal forward_done
        value = objectives.logistic_margin(indices, answers)
        forward_done = True  # what is saved after it is let go at once
        return value

    def backward() -> None:
        gradients.add_gradient(
            setting.loaded.model, rows, objective, weight=1.0, pad_id=setting.pad, batch_size=BATCH // 2
        )

    sizes = [module.weight.nbytes for module in setting.linears.values()]
    with taylor.collector(setting, rank) as sums:
        reading = input_hooks(setting.linears, lambda _, tensor: keep(tensor))
        with reading, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            backward()
        backward()
    return {
        "activations_mb": sum(kept.values()) / _MB,
        "largest_gradient_mb": max(sizes) / _MB,
        "sums_mb": sum(one.nbytes for one in sums.values()) / _MB,
    }


def _print(figures: dict[str, Any]) -> None:
    print(json.dumps(figures))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _print(main(sys.argv[1:]))
