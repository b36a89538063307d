"""Applying a mask to a loaded model, and taking it off again without a trace."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from persona_prune.masks.mask import Mask
from persona_prune.models.loaded import LoadedModel, fingerprint, maskable_linears, same_weights


class Intervention(Protocol):
    """Something that makes the dense model answer as a persona, and can be undone."""

    @property
    def bytes(self) -> int:
        """What has to be stored to have it again."""

    def applied(self, loaded: LoadedModel) -> AbstractContextManager[LoadedModel]:
        """Return a context in which the model it yields is the persona; after it ``loaded`` is dense again."""


@dataclass(frozen=True)
class Masking:
    """A mask on the weights, as an `Intervention`."""

    mask: Mask
    gamma: float

    @property
    def bytes(self) -> int:
        """Size of the mask's bits."""
        return sum(bits.numel() for bits in self.mask.bits.values())

    @contextmanager
    def applied(self, loaded: LoadedModel) -> Iterator[LoadedModel]:
        """Yield the masked model."""
        with masked(loaded.model, self.mask, model_fingerprint=loaded.fingerprint, gamma=self.gamma):
            yield loaded


@contextmanager
def masked(model: nn.Module, mask: Mask, *, model_fingerprint: str, gamma: float = 0.0) -> Iterator[None]:
    """Multiply the weights of ``model`` with ``G = M + gamma (1 - M)`` (equations 6 and 7) while the body runs.

    Only the dropped weights are copied aside; on exit they are written back, so that every weight is bit for bit what
    it was, also when the body raises.

    Args:
        model: the model; its weights are changed in place.
        mask: which weights to keep.
        model_fingerprint: fingerprint of the dense ``model`` (`models.fingerprint`).
        gamma: what dropped weights are multiplied with, in [0, 1); 0 removes them.

    Raises:
        ValueError: the mask was made for other weights, or ``gamma`` is out of range; nothing is changed then.
    """
    check_gamma(gamma)
    linears = check_fits(model, mask, model_fingerprint)
    saved: list[tuple[str, Tensor]] = []
    try:
        for name, module in linears.items():
            positions = dropped_positions(mask, name, module.weight.device)
            original = weights_at(module, positions)
            saved.append((name, original))
            write_weights(module, positions, gated(original, gamma))
        yield
    finally:
        # Where they go is read from the mask again: positions would take several times the memory of the weights.
        for name, original in saved:
            module = linears[name]
            write_weights(module, dropped_positions(mask, name, module.weight.device), original)


def check_gamma(gamma: float) -> None:
    """Raise ValueError unless ``gamma`` is in [0, 1)."""
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must be in [0, 1), got {gamma}")


def check_fits(model: nn.Module, mask: Mask, model_fingerprint: str) -> dict[str, nn.Linear]:
    """Return the maskable Linears of ``model`` if ``mask`` was made for exactly these weights.

    Raises:
        ValueError: it was made for another model.
    """
    linears = maskable_linears(model)
    shapes = {name: (module.out_features, module.in_features) for name, module in linears.items()}
    if dict(mask.shapes) != shapes:
        raise ValueError(
            f"the mask covers {len(mask.shapes)} Linears of another model; this one has {len(shapes)}, "
            f"the first {next(iter(shapes.items()))}"
        )
    if not same_weights(mask.model_fingerprint, model_fingerprint):
        raise ValueError(
            f"the mask was made for the model with fingerprint {mask.model_fingerprint}, not {model_fingerprint}: "
            "build it again for these weights"
        )
    return linears


def dense_model(model: LoadedModel | nn.Module) -> tuple[Any, str]:
    """Return the transformers model and the fingerprint of its dense weights.

    Raises:
        ValueError: a loaded model's weights are not those it was loaded with: a mask is on it.
    """
    if not isinstance(model, LoadedModel):
        return model, fingerprint(model)
    if not model.is_dense:
        raise ValueError(f"model {model.name} is not dense: take the mask off that is on it")
    return model.model, model.fingerprint


def dropped_positions(mask: Mask, name: str, device: torch.device) -> Tensor:
    """Return where in the flattened weight of a Linear ``mask`` drops, ascending, as int64 ``[dropped]``."""
    dropped = mask.keep(name).flatten().logical_not_()
    if device.type == "cpu":
        # Twice as fast there as torch's.
        return torch.from_numpy(np.flatnonzero(dropped.numpy()))
    return dropped.to(device).nonzero().flatten()


def weights_at(module: nn.Linear, positions: Tensor) -> Tensor:
    """Return a copy of the weights at integer ``positions`` of the flattened weight, ``[positions]``."""
    return _flat(module).index_select(0, positions)


def write_weights(module: nn.Linear, positions: Tensor, values: Tensor) -> None:
    """Write ``values`` at integer ``positions`` of the flattened weight."""
    _flat(module).index_copy_(0, positions.long(), values)


def gated(original: Tensor, factor: float | Tensor) -> Tensor:
    """Return ``original * factor`` in its own dtype; what comes out as zero is a positive one."""
    if isinstance(factor, float) and factor == 0:
        return torch.zeros_like(original)
    return (original * factor + 0.0).to(original.dtype)


def _flat(module: nn.Linear) -> Tensor:
    return module.weight.detach().view(-1)
