"""Contrastive Taylor: drop the weights whose loss moves the answers most for the least damage."""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.methods.selection import Selection
from persona_prune.validation import STRICT, PositiveInt

_DAMPING = 1e-3


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastiveTaylor(Selection):
    """First-order saliency of the persona's margin per second-order damage to everything else.

    Let ``g_ij`` be the gradient, with respect to ``w_ij``, of the mean per-token log-probability margin of the
    calibration pairs (matching minus not matching), plus ``neutral_weight`` times that of the dense model's own answers
    to neutral prompts. Dropping ``w_ij`` changes this objective by about ``-w_ij g_ij`` (Taylor) and damages the
    Linear's output on generic text by about ``w_ij^2 E[x_j^2]``. Dropped are, in every row, the weights with the largest
    benefit per damage, ``-g_ij / (w_ij E[x_j^2])``, and of them only those whose benefit is positive: ``sparsity`` is an
    upper bound.

    Over several ``rounds``, each drops an equal part and the gradient is taken again at the masked weights.

    Attributes:
        rounds: how many times the gradient is taken.
        neutral_weight: weight of the neutral answers in the objective; 0 leaves them out.
        neutral_prompts: how many neutral prompts (never those of the capability evaluator) are answered.
        neutral_tokens: length of the dense model's answers to them.
        generic_tokens: tokens of neutral text that ``E[x_j^2]`` is taken over, beside those answers.
    """

    rounds: PositiveInt
    neutral_weight: Annotated[float, Field(ge=0.0)]
    neutral_prompts: PositiveInt
    neutral_tokens: PositiveInt
    generic_tokens: PositiveInt


def benefit_per_damage(weight: Tensor, gradient: Tensor, mean_square: Tensor) -> Tensor:
    """Return ``-g_ij / (w_ij (E[x_j^2] + damping))``, ``[out_features, in_features]``; -inf where nothing is gained.

    Args:
        weight: ``[out_features, in_features]``; zeros, such as dropped weights, gain nothing.
        gradient: of the objective, same shape.
        mean_square: ``E[x_j^2]`` of generic input, ``[in_features]``; damped by a thousandth of its mean.
    """
    damage = weight * (mean_square + _DAMPING * mean_square.mean()).to(weight.device)
    gains = weight * gradient < 0
    return torch.where(gains, -gradient / damage, -torch.inf).nan_to_num(
        nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf
    )


def drop_best(score: Tensor, dropped: Tensor, count: int) -> Tensor:
    """Add to ``dropped`` the ``count`` best of every row by ``score`` that are not dropped and not -inf.

    Equal scores: the lower column first.
    """
    if count == 0:
        return dropped
    candidates = score.masked_fill(dropped, -torch.inf)
    best = candidates.argsort(dim=1, descending=True, stable=True)[:, :count]
    chosen = torch.zeros_like(dropped).scatter_(1, best, True)
    return dropped | (chosen & (candidates > -torch.inf))
