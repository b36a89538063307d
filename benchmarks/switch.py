"""From persona A to persona B on a loaded model."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import reference
from benchmarks.mask import method_of
from benchmarks.measure import Arm, exactly, interleaved, ratio
from benchmarks.rows import Row
from benchmarks.setting import Setting, spec
from benchmarks.shapes import SHAPES
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, difference, dropped_like
from persona_prune.masks.switching import PersonaSwitcher
from persona_prune.methods.base import build_masks

_PAIRS = 16


def measure(setting: Setting) -> list[Row]:
    """Compare with reloading the model and applying bool files, and with copying the maskable weights once."""
    own, other = two_poles(setting)
    # Two masks that have nothing in common but their size: the most that can differ at this sparsity.
    strangers = [dropped_like(own, seed) for seed in (1, 2)]
    return [
        *_of_masks(setting, "two poles, wanda", own, other),
        *_of_masks(setting, "two unrelated masks", *strangers),
    ]


def two_poles(setting: Setting) -> tuple[Mask, Mask]:
    """Return the masks of two opposite personas."""
    target, contrast = setting.signature(setting.rows(setting.pairs()[:_PAIRS]))
    return build_masks(setting.linears, method_of("wanda"), target, contrast, {})  # type: ignore[arg-type]


def _of_masks(setting: Setting, label: str, first: Mask, second: Mask) -> list[Row]:
    linears = setting.linears
    dense = {name: module.weight.detach().clone() for name, module in linears.items()}
    buffer = {name: torch.empty_like(weight) for name, weight in dense.items()}
    host = {name: weight.cpu() for name, weight in dense.items()} if setting.model in SHAPES else {}
    differ = sum(share * linears[name].weight.numel() for name, share in difference(first, second).items())
    share = differ / first.weights

    def copy(_: int) -> None:
        for name, weight in dense.items():
            buffer[name].copy_(weight)

    with TemporaryDirectory() as name:
        directories = [Path(name) / pole for pole in ("first", "second")]
        for directory, mask in zip(directories, (first, second), strict=True):
            directory.mkdir()
            reference.save_bool_files(directory, {linear: mask.keep(linear) for linear in linears})

        def reload(number: int) -> None:
            if setting.model in SHAPES:
                # There is no file: weights come from the host instead, which is less than a reload.
                for linear, weight in host.items():
                    buffer[linear].copy_(weight)
                reference.apply_bool_files(directories[number % 2], buffer)
                return
            fresh = spec(setting.model, setting.dtype).load().model
            weights = {linear: fresh.get_submodule(linear).weight for linear in linears}
            reference.apply_bool_files(directories[number % 2], weights)

        with PersonaSwitcher(setting.loaded, {"first": first, "second": second}) as switcher:
            switcher.switch("first")
            held = switcher.bytes
            arms = {
                "product": Arm(lambda number: switcher.switch(("second", "first")[number % 2])),
                "floor": Arm(copy),
                "reference": Arm(reload),
            }
            seconds = interleaved(arms, max(4, setting.rounds), setting.device)
            wrong = _unlike_masked(setting, switcher, first, dense)
    size = sum(weight.nbytes for weight in dense.values())
    detail = {"seconds": seconds, "differ": share, "bytes": held, "weights_bytes": size}
    faster = ratio(seconds["reference"], seconds["product"])
    slower = ratio(seconds["product"], seconds["floor"])
    what = f"switch, {label} ({share:.1%} of the weights differ)"
    return [
        Row("switch", what, "reload, apply / product", faster, at_least=10.0, detail=detail),
        Row("switch", what, "product / copying the maskable weights once", slower, at_most=2.0, detail=detail),
        Row("switch", what, "weights that differ from a masked model's", exactly(wrong), at_most=0.0, unit=""),
        Row("switch", what, "memory of the switcher / of the weights", exactly(held / size), at_most=1.0),
    ]


def _unlike_masked(setting: Setting, switcher: PersonaSwitcher, first: Mask, dense: dict[str, torch.Tensor]) -> float:
    """Return how many weights differ from those that `apply.masked` gives, and from the dense ones after it."""
    switcher.switch("first")
    now = {name: module.weight.detach().clone() for name, module in setting.linears.items()}
    switcher.switch(None)
    wrong = sum(int((module.weight != dense[name]).sum()) for name, module in setting.linears.items())
    with masked(setting.loaded.model, first, model_fingerprint=setting.loaded.fingerprint):
        wrong += sum(int((module.weight != now[name]).sum()) for name, module in setting.linears.items())
    return float(wrong)
