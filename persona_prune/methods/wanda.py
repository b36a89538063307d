"""Wanda (equations 2 and 3), with the paper's statistic or the original one."""

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.common.validation import STRICT
from persona_prune.methods.base import Layer, wanda_importance
from persona_prune.methods.selection import Selection


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Wanda(Selection):
    """Keep weights that are large where the persona's activations are: ``S_ij = |w_ij| A_p[j]``.

    ``statistic``: ``mean_abs`` is the paper's ``E|x_j|``; ``l2`` the original Wanda's ``sqrt(sum_t x_tj^2)`` (Sun et
    al. 2023), here divided by the square root of the number of tokens, which changes no selection.
    """

    statistic: Literal["mean_abs", "l2"]

    @property
    def reads(self) -> tuple[str, ...]:
        """The statistics that the scores read."""
        return ("target.mean_abs" if self.statistic == "mean_abs" else "target.mean_square",)

    def score(self, layer: Layer) -> Tensor:
        """Return the scores of equation 3, ``[out_features, in_features]``."""
        target = layer.target
        return wanda_importance(
            layer.weight, target.mean_abs if self.statistic == "mean_abs" else target.mean_square.sqrt()
        )
