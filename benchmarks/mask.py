"""Masks of all Linears by every signature method, of both poles."""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from torch import Tensor, nn

from benchmarks import reference
from benchmarks.measure import Arm, interleaved, ratio
from benchmarks.rows import Row
from benchmarks.setting import Setting, plan
from persona_prune.calibration.signatures import Signature
from persona_prune.masks.mask import Mask
from persona_prune.methods.base import Layer, Method, build_masks
from persona_prune.methods.selection import Selection
from persona_prune.saved.mask_file import save_mask

METHODS = {
    "wanda": ["method=wanda"],
    "sparse": ["method=sparse"],
    "contrastive_wanda": ["method=contrastive_wanda"],
    "contrastive_sparse": ["method=contrastive_sparse"],
    "contrastive_sparse, disjoint": ["method=contrastive_sparse", "method.assignment=disjoint"],
    "magnitude": ["method=magnitude"],
}
"""Those whose scores have a reference; a random mask is the same selection of random numbers."""

_REFERENCE_SHARE = 4  # every fourth Linear: what it costs is proportional to the weights
_PAIRS = 16


def measure(setting: Setting) -> list[Row]:
    """Compare with a Python loop over rows and one bool file per layer, and with computing the scores once."""
    target, contrast = setting.signature(setting.rows(setting.pairs()[:_PAIRS]))
    # Each round has Linears of every kind, since neighbours have the same place in their layers.
    names = sorted(setting.linears, key=lambda name: (name.split(".")[-1], name))
    parts = [[names[i] for i in part] for part in setting.slices(len(names))]
    return [row for label in METHODS for row in _of_method(setting, label, parts, target, contrast)]


def method_of(label: str) -> Selection:
    """Return a method with the settings of its YAML."""
    return cast(Selection, plan("model=tiny_random", *METHODS[label]).method)


def _of_method(
    setting: Setting, label: str, parts: Sequence[Sequence[str]], target: Signature, contrast: Signature
) -> list[Row]:
    method = cast(Method, method_of(label))
    sampled = [part[::_REFERENCE_SHARE] for part in parts]
    built: list[tuple[Mask, Mask]] = []
    building: dict[int, float] = {}  # masks end up on the host, so that nothing is left to wait for

    def build(number: int) -> None:
        linears = {name: setting.linears[name] for name in parts[number]}
        built[:] = [build_masks(linears, method, target, contrast, {})]

    def score(number: int) -> None:
        for name in parts[number]:
            weight = setting.linears[name].weight.detach().float()
            for pole, other in ((target, contrast), (contrast, target)):
                method.score(Layer(name, weight, pole[name], other[name]))

    with TemporaryDirectory() as directory:

        def save(_: int) -> None:
            for number, mask in enumerate(built[0]):
                save_mask(mask, Path(directory) / f"{number}.safetensors")

        def plainly(number: int) -> None:
            linears = {name: setting.linears[name] for name in sampled[number]}
            for masks in both_poles(label, linears, target, contrast, method.sparsity):
                reference.save_bool_files(Path(directory), masks)

        def whole(number: int) -> None:
            started = time.perf_counter()
            build(number)
            building[number] = time.perf_counter() - started
            save(number)

        arms = {"product": Arm(whole), "reference": Arm(plainly), "floor": Arm(score)}
        seconds = interleaved(arms, setting.rounds, setting.device)
    seconds["build"] = [building[number] for number in range(setting.rounds)]
    scales = [_weights(setting, part) / _weights(setting, few) for part, few in zip(parts, sampled, strict=True)]
    detail = {"seconds": seconds, "reference_scales": scales}
    what = f"both masks of the whole model, {label}"
    faster = ratio(seconds["reference"], seconds["product"], scales)
    slower = ratio(seconds["build"], seconds["floor"])
    return [
        Row("mask", what, "loop over rows, bool files / product, with saving", faster, at_least=10.0, detail=detail),
        Row("mask", what, "product / computing the scores once", slower, at_most=5.0, detail=detail),
    ]


def both_poles(
    label: str, linears: dict[str, nn.Linear], target: Signature, contrast: Signature, sparsity: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the reference's masks of the two poles."""
    kind, _, disjoint = label.partition(", ")
    own: dict[str, Tensor] = {}
    other: dict[str, Tensor] = {}
    for name, module in linears.items():
        weight: Any = module.weight.detach().float().cpu()
        plus = reference.scores(kind, weight, target[name], contrast[name])
        minus = reference.scores(kind, weight, contrast[name], target[name])
        if disjoint:
            own[name], other[name] = reference.keep_disjoint(plus, minus, sparsity)
        else:
            own[name], other[name] = reference.keep(plus, sparsity), reference.keep(minus, sparsity)
    return own, other


def _weights(setting: Setting, names: Sequence[str]) -> int:
    return sum(setting.linears[name].weight.numel() for name in names)
