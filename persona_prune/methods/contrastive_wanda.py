"""Contrastive Wanda (equation 8)."""

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from persona_prune.common.validation import STRICT
from persona_prune.methods.base import Layer
from persona_prune.methods.selection import ContrastiveSelection

_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastiveWanda(ContrastiveSelection):
    """Keep weights that read what the persona's answers excite more than the opposite's.

    ``S_ij = |w_ij| phi((mu+ - mu-) / sqrt(var+ + var- + eps))``. The paper leaves open what ``mu`` and ``var`` are of;
    here: of ``|x_j|`` over tokens (``statistic: token``, as in equation 2), or of the root mean square of ``x_j`` over
    each sequence (``statistic: sequence``). With ``phi: relu`` about half of all columns score exactly 0, so the tie
    rule (`masks.row_top_k`) decides among them.
    """

    phi: Literal["relu", "softplus"]
    statistic: Literal["token", "sequence"]

    @property
    def reads(self) -> tuple[str, ...]:
        """The statistics that the scores read."""
        token = self.statistic == "token"
        fields = ("mean_abs", "mean_square") if token else ("sequence_mean", "sequence_variance")
        return tuple(f"{pole}.{field}" for pole in ("target", "contrast") for field in fields)

    def score(self, layer: Layer) -> Tensor:
        """Return the scores of equation 8, ``[out_features, in_features]``."""
        target, contrast = layer.target, layer.contrast
        if self.statistic == "token":
            mean = target.mean_abs - contrast.mean_abs
            variance = (target.mean_square - target.mean_abs**2) + (contrast.mean_square - contrast.mean_abs**2)
        else:
            mean = target.sequence_mean - contrast.sequence_mean
            variance = target.sequence_variance + contrast.sequence_variance
        effect = mean / (variance.clamp(min=0) + _EPSILON).sqrt()
        gate = functional.relu(effect) if self.phi == "relu" else functional.softplus(effect)
        return layer.weight.abs() * gate.to(layer.weight.device)
