"""Applying a mask to a loaded model, and taking it off again without a trace."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from persona_prune.masks import Mask
from persona_prune.models import LoadedModel, maskable_linears


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
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must be in [0, 1), got {gamma}")
    linears = check_fits(model, mask, model_fingerprint)
    saved: list[tuple[str, Tensor]] = []
    try:
        with torch.no_grad():
            for name, module in linears.items():
                weight = module.weight.data
                dropped = mask.keep(name).logical_not_().to(weight.device)
                original = weight[dropped]
                saved.append((name, original))
                weight[dropped] = original * gamma if gamma else torch.zeros_like(original)
        yield
    finally:
        with torch.no_grad():
            # Where they go is read from the mask again: indices would take several times the memory of the weights.
            for name, original in saved:
                weight = linears[name].weight.data
                weight[mask.keep(name).logical_not_().to(weight.device)] = original


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
    if mask.model_fingerprint != model_fingerprint:
        raise ValueError(
            f"the mask was made for the model with fingerprint {mask.model_fingerprint}, not {model_fingerprint}: "
            "build it again for these weights"
        )
    return linears
