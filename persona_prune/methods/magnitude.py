"""Magnitude pruning: a control that never looks at the persona."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from persona_prune.common.validation import STRICT
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.methods.base import Layer
from persona_prune.methods.selection import Selection


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Magnitude(Selection):
    """Keep the weights that are largest: ``S_ij = |w_ij|``."""

    is_control: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:
        """The statistics that the scores read."""
        return ()

    def score(self, layer: Layer) -> Tensor:
        """Return the scores, ``[out_features, in_features]``."""
        return layer.weight.abs()


def magnitude_like(mask: Mask, linears: Mapping[str, nn.Linear]) -> Mask:
    """Return the mask that drops, of every row, the smallest weights, as many as ``mask`` does.

    Of equal weights the lower column is kept, as by `base.tie_rule`.
    """
    bits = {}
    for name, module in linears.items():
        counts = (~mask.keep(name)).sum(1, keepdim=True)
        largest = module.weight.detach().abs().cpu().argsort(dim=1, descending=True, stable=True)
        keep = torch.zeros(largest.shape, dtype=torch.bool)
        keep.scatter_(1, largest, torch.arange(largest.shape[1])[None, :] < largest.shape[1] - counts)
        bits[name] = pack_bits(keep)
    return Mask(bits, mask.shapes, mask.model_fingerprint, {"method": "magnitude"})
