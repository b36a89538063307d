"""Magnitude pruning: a control that never looks at the persona."""

from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.methods.base import Layer
from persona_prune.methods.selection import Selection
from persona_prune.validation import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Magnitude(Selection):
    """Keep the weights that are largest: ``S_ij = |w_ij|``."""

    def score(self, layer: Layer) -> Tensor:
        """Return the scores, ``[out_features, in_features]``."""
        return layer.weight.abs()
