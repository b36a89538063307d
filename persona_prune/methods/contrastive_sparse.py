"""Contrastive Sparse (equation 9)."""

from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.common.validation import STRICT
from persona_prune.methods.base import Layer
from persona_prune.methods.selection import ContrastiveSelection
from persona_prune.methods.sparse import Damping, sparse_importance


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastiveSparse(ContrastiveSelection):
    """Keep the weights that matter more, as a share of their row, to the persona's text than to the opposite's.

    ``C_ij = S~+_ij - S~-_ij`` with ``S~_ij = S_ij / sum_k S_ik`` and ``S`` from `sparse.sparse_importance`.
    """

    damping: Damping

    @property
    def reads(self) -> tuple[str, ...]:
        """The statistics that the scores read."""
        return ("target.mean_square", "contrast.mean_square")

    def score(self, layer: Layer) -> Tensor:
        """Return the scores of equation 9, ``[out_features, in_features]``."""
        target = sparse_importance(layer.weight, layer.target, self.damping)
        contrast = sparse_importance(layer.weight, layer.contrast, self.damping)
        return _share_of_row(target) - _share_of_row(contrast)


def _share_of_row(scores: Tensor) -> Tensor:
    # A row without any importance (all weights zero) has shares of zero.
    return scores / scores.sum(dim=1, keepdim=True).clamp(min=1e-30)
