"""Wanda with the paper's statistic (equations 2 and 3)."""

from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.methods.base import Layer, wanda_importance
from persona_prune.validation import STRICT, Fraction, Name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Wanda:
    """Keep weights that are large where the persona's activations are: ``S_ij = |w_ij| A_p[j]``."""

    name: Name
    sparsity: Fraction
    gamma: Fraction

    def score(self, layer: Layer) -> Tensor:
        """Return the scores of equation 3, ``[out_features, in_features]``."""
        return wanda_importance(layer.weight, layer.target.mean_abs)
