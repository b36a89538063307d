"""A random mask: the control that every other mask has to beat."""

import zlib
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.common.validation import STRICT
from persona_prune.methods.base import Layer
from persona_prune.methods.selection import Selection


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Random(Selection):
    """Drop the same number of weights in every row as any other method would, chosen by ``seed``."""

    is_control: ClassVar[bool] = True

    seed: int

    @property
    def reads(self) -> tuple[str, ...]:
        """The statistics that the scores read."""
        return ()

    def score(self, layer: Layer) -> Tensor:
        """Return uniform scores that depend on the seed and the Linear's name only, ``[out_features, in_features]``."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}:{layer.name}".encode()))
        return torch.rand(layer.weight.shape, generator=generator).to(layer.weight.device)
