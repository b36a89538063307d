"""Contrastive Taylor: drop the weights whose loss moves the answers most for the least damage."""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

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

    Let ``g_ij`` be the gradient of the objective (`gradients.margin` over the calibration pairs, plus
    ``neutral_weight`` times the log-probability of the dense model's own answers to neutral prompts) with respect to
    ``w_ij``. Dropping the weight changes the objective by about ``-w_ij g_ij`` (first-order Taylor) and costs the model
    on generic text about ``w_ij^2 E[x_j^2] E[delta_i^2]`` (the K-FAC diagonal, `gradients.output_fisher`). Dropped are
    the weights with the most benefit per damage, ``-g_ij / (w_ij E[x_j^2] E[delta_i^2])``, and only those whose benefit
    is positive: ``sparsity`` is an upper bound.

    Over several ``rounds``, each drops an equal part and the gradient is taken again at the masked weights.

    Attributes:
        allocation: ``model`` ranks all weights of the model together, since the damage is comparable; ``row`` drops the
            same share of every row, for which ``E[delta_i^2]`` cancels.
        rounds: how many times the gradient is taken.
        neutral_weight: weight of the neutral answers in the objective; 0 leaves them out.
        neutral_prompts: how many neutral prompts (never those of the capability evaluator) are answered.
        neutral_tokens: length of the dense model's answers to them.
        generic_tokens: tokens of neutral text that the damage is taken over, beside those answers.
        seed: of the answers that the Fisher diagonal samples.
    """

    allocation: Literal["model", "row"]
    rounds: PositiveInt
    neutral_weight: Annotated[float, Field(ge=0.0)]
    neutral_prompts: PositiveInt
    neutral_tokens: PositiveInt
    generic_tokens: PositiveInt
    seed: int

    def __post_init__(self) -> None:
        if self.allocation == "model" and self.overrides:
            raise ValueError("overrides set the sparsity of a module's rows: use them with allocation=row")


def benefit_per_damage(weight: Tensor, gradient: Tensor, mean_square: Tensor, output_square: Tensor) -> Tensor:
    """Return ``-g_ij / (w_ij (E[x_j^2] + damping) E[delta_i^2])``; -inf where nothing is gained.

    Args:
        weight: ``[out_features, in_features]``; zeros, such as dropped weights, gain nothing.
        gradient: of the objective, same shape.
        mean_square: ``E[x_j^2]`` of generic input, ``[in_features]``; damped by a thousandth of its mean.
        output_square: ``E[delta_i^2]`` of generic text, ``[out_features]``.

    Returns:
        ``[out_features, in_features]``, larger = drop.
    """
    inputs = (mean_square + _DAMPING * mean_square.mean()).to(weight.device)
    damage = weight * inputs * output_square.to(weight.device)[:, None]
    gains = weight * gradient < 0
    return torch.where(gains, -gradient / damage, -torch.inf).nan_to_num(
        nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf
    )


def threshold_of_best(scores: Iterable[Tensor], count: int) -> float:
    """Return the smallest threshold that at most ``count`` of all scores exceed, to one part in a million.

    Bisection, so that no more than one tensor's comparison is in memory beside the scores. Scores that are not positive
    are never meant to be dropped: the threshold is at least 0.
    """
    tensors = list(scores)
    low = 0.0
    if sum(int((score > low).sum()) for score in tensors) <= count:
        return low
    high = max(_largest(score) for score in tensors)
    low = high * 1e-30
    while high > low * (1 + 1e-6):
        middle = math.sqrt(low * high)
        if sum(int((score > middle).sum()) for score in tensors) <= count:
            high = middle
        else:
            low = middle
    return high


def _largest(score: Tensor) -> float:
    finite = score.masked_fill(score == torch.inf, 0.0)
    return max(float(finite.max()), 1e-30)


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
