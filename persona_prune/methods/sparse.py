"""Sparse: second-order saliency with a diagonal Hessian (equation 5)."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.calibration.signatures import Statistics
from persona_prune.common.validation import STRICT, PositiveInt
from persona_prune.methods.base import Layer
from persona_prune.methods.selection import Selection

Damping = Annotated[float, Field(ge=0.0)]


def sparse_importance(weight: Tensor, statistics: Statistics, damping: float) -> Tensor:
    """Return ``w_ij^2 (E[x_j^2] + lambda)``, ``lambda = damping * mean_j E[x_j^2]``, ``[out_features, in_features]``.

    This is the loss of dropping a weight, ``w^2 / [H^-1]_jj``, for ``H`` equal to its diagonal plus ``lambda I``. The
    paper gives ``H`` and says that only its diagonal is used, not the score; this is what that makes of SparseGPT's.
    """
    diagonal = statistics.mean_square + damping * statistics.mean_square.mean()
    return weight.square() * diagonal.to(weight.device)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sparse(Selection):
    """Keep the weights whose loss would change the Linear's output most on the persona's text.

    With a diagonal ``H`` no error is carried from one column to the next, so the paper's 128-column blocks change no
    score. They change the result only if the same share is kept in every block, instead of in every row as equation 4
    has it: ``block_columns: 128``.
    """

    damping: Damping
    block_columns: PositiveInt | None

    def block(self, columns: int) -> int:
        """Return the width of the blocks of columns that each keep the same share."""
        return self.block_columns or columns

    @property
    def reads(self) -> tuple[str, ...]:
        """The statistics that the scores read."""
        return ("target.mean_square",)

    def score(self, layer: Layer) -> Tensor:
        """Return the scores, ``[out_features, in_features]``."""
        return sparse_importance(layer.weight, layer.target, self.damping)
