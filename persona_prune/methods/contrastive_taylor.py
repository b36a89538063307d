"""Contrastive Taylor: drop the weights whose loss moves the answers most for the least damage."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.calibration.damage import Damage
from persona_prune.common.validation import STRICT, PositiveInt
from persona_prune.methods.selection import Selection

VERSION = (
    9  # raise it whenever a mask would come out differently, so that cached masks and finished runs are not reused
)
_DAMPING = 1e-3
_OUTPUT_DAMPING = 0.1
_LARGEST_SHARE = 0.2
_MOST_ROUNDS = 6
BUDGET_PAIRS = 32
_HELD_OUT = 4


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastiveTaylor(Selection):
    """First-order saliency of the persona's margin per second-order damage to everything else.

    Let ``g_ij`` be the gradient with respect to ``w_ij`` of the objective: the margin over the calibration pairs, plus
    ``own_weight`` times the log-probability of the persona's own answers, plus ``neutral_weight`` times that of the
    dense model's own answers to neutral prompts (`gradients.log_probability`). Dropping the weight changes it by about
    ``-w_ij g_ij`` (first-order Taylor) and costs the model on generic text about ``w_ij^2 E[x_j^2]
    E[delta_i^2]`` (the K-FAC diagonal, `gradients.generic_damage`). Dropped are the weights with the most benefit per
    damage, ``-g_ij / (w_ij E[x_j^2] E[delta_i^2])``, and only those whose benefit is positive: ``sparsity`` is an upper
    bound.

    Over several ``rounds``, each drops an equal part and the gradient is taken again at the masked weights, on the next
    ``pairs_per_round`` pairs.

    Attributes:
        allocation: ``model`` ranks all weights of the model together, since the damage is comparable; ``row`` drops the
            same share of every row, for which ``E[delta_i^2]`` cancels.
        rounds: how many times the gradient is taken; null for as many as bring new pairs, and at most 6.
        pairs_per_round: how many pairs a round looks at; null for all.
        rank: each round's gradient is replaced by an approximation of this rank, which takes no memory for a gradient
            and makes the persona a few vectors per Linear. Null for the gradient itself, whose sums take as much memory
            as the weights in float32, on the model's device.
        objective: ``logistic`` (`gradients.logistic_margin`) or ``linear`` (`gradients.margin`).
        own_weight: weight of the persona's own answers' log-probability in the objective (`gradients.and_own`).
        neutral_weight: weight of the neutral answers in the objective; 0 leaves them out.
        neutral_prompts: how many neutral prompts (never those of the capability evaluator) are answered, if the rounds
            look at as many.
        neutral_per_round: how many of them a round looks at.
        neutral_tokens: length of the dense model's answers to them.
        generic_tokens: tokens of neutral text that the damage is taken over, beside those answers.
        max_perplexity_ratio: where perplexity on validation text (neither calibrated on nor evaluated) rises beyond
            this ratio, a round drops fewer weights, by bisection; null for no bound.
        max_neutral_drift: the same for the drift (nats per token) on validation prompts; the next rounds then go on
            from there, with gradients that see the drift.
        max_first_word_shift: the same for the largest change of the share of answers to validation prompts that begin
            with one token.
        max_own_loss: the same for what the persona's own answers lose (nats per token) on 32 calibration pairs, which
            no round looks at if there are at least 128. With any of these bounds a round also drops fewer weights, or
            none, where that would not raise the objective, measured on these pairs and the validation prompts.
        seed: of the sketches, the order of the pairs, and the answers that the Fisher diagonal samples.
    """

    allocation: Literal["model", "row"]
    rounds: PositiveInt | None
    pairs_per_round: PositiveInt | None
    rank: PositiveInt | None
    objective: Literal["logistic", "linear"]
    own_weight: Annotated[float, Field(ge=0.0)]
    neutral_weight: Annotated[float, Field(ge=0.0)]
    neutral_prompts: PositiveInt
    neutral_per_round: PositiveInt
    neutral_tokens: PositiveInt
    generic_tokens: PositiveInt
    max_perplexity_ratio: Annotated[float, Field(ge=1.0)] | None
    max_neutral_drift: Annotated[float, Field(ge=0.0)] | None
    max_first_word_shift: Annotated[float, Field(ge=0.0)] | None
    max_own_loss: Annotated[float, Field(ge=0.0)] | None
    seed: int

    def __post_init__(self) -> None:
        if self.allocation == "model" and self.overrides:
            raise ValueError("overrides set the sparsity of a module's rows: use them with allocation=row")
        if self.allocation == "row" and self.bounded:
            raise ValueError("budgets move one threshold of the whole model: use them with allocation=model")

    @property
    def bounded(self) -> bool:
        """Whether any cost has a bound."""
        bounds = (self.max_perplexity_ratio, self.max_neutral_drift, self.max_first_word_shift, self.max_own_loss)
        return any(bound is not None for bound in bounds)

    def held_out(self, pairs: int) -> int:
        """Return how many of so many pairs no round looks at, because the budget measures steps on them.

        Those are 32 where there are at least four times as many. Of fewer, all are needed in the gradients, and the
        last 32 are in both.
        """
        return BUDGET_PAIRS if self.bounded and pairs >= _HELD_OUT * BUDGET_PAIRS else 0

    def resolved(self, pairs: int) -> Self:
        """Return the method for a number of calibration pairs: how many rounds, and neutral prompts for them."""
        seen = pairs - self.held_out(pairs)
        per_round = min(self.pairs_per_round or seen, seen)
        rounds = self.rounds or min(_MOST_ROUNDS, math.ceil(seen / per_round))
        return replace(self, rounds=rounds, neutral_prompts=min(self.neutral_prompts, rounds * self.neutral_per_round))

    def shared(self, share: float) -> Self:
        """Return the same method for a part of a mix, with ``share`` of sparsity and budgets.

        But not of the first words' shift, which is counted in whole prompts.
        """
        ratio, drift, loss = self.max_perplexity_ratio, self.max_neutral_drift, self.max_own_loss
        return replace(
            super().shared(share),
            max_perplexity_ratio=None if ratio is None else 1 + share * (ratio - 1),
            max_neutral_drift=None if drift is None else share * drift,
            max_own_loss=None if loss is None else share * loss,
        )


def benefit_per_damage(weight: Tensor, gradient: Tensor, damage: Damage) -> Tensor:
    """Return ``-g_ij / (w_ij (E[x_j^2] + damping) (E[delta_i^2] + damping))``; -inf where nothing is gained.

    Both factors are damped, as is usual for K-FAC, or the quotient runs away where both gradients vanish: the queries
    of an attention head that looks at the first token whatever comes next have an ``E[delta_i^2]`` a million times
    smaller than those of other heads, since its softmax is saturated, until so many of them are gone that it isn't.

    Also -inf for the few weights that carry more than 20% of their output's energy, ``w_ij^2 E[x_j^2]`` against the sum
    over the row. Among them are the super weights (Yu et al. 2024), without which a model is destroyed, while no
    derivative at the weights as they are tells so.

    Args:
        weight: ``[out_features, in_features]`` float32; zeros, such as dropped weights, gain nothing.
        gradient: of the objective, same shape.
        damage: of this Linear on generic text; ``E[x_j^2]`` is damped by a thousandth of its mean, ``E[delta_i^2]`` by
            a tenth.

    Returns:
        ``[out_features, in_features]``, larger = drop.
    """
    inputs = (damage.inputs + _DAMPING * damage.inputs.mean()).to(weight.device)
    energy = weight.square() * inputs
    vital = energy > _LARGEST_SHARE * energy.sum(1, keepdim=True)
    outputs = (damage.outputs + _OUTPUT_DAMPING * damage.outputs.mean()).to(weight.device)
    cost = weight * inputs * outputs[:, None]
    score = gradient / -cost
    # No gain where the quotient is not positive; 0 / 0 and x / 0 are weights that do nothing.
    return score.masked_fill_(~((score > 0) & (score < torch.inf)) | vital, -torch.inf)


def threshold_of_best(scores: Iterable[Tensor], count: int) -> float:
    """Return the smallest threshold that at most ``count`` of all scores exceed, to one part in a million.

    By bisection. Scores that are not positive are never meant to be dropped: the threshold is at least 0.
    """
    tensors = list(scores)
    if sum(int((score > 0).sum()) for score in tensors) <= count:
        return 0.0
    high = max(float(score.max()) for score in tensors)
    low = high * 1e-30
    while high > low * (1 + 1e-6):
        middle = math.sqrt(low * high)
        if sum(int((score > middle).sum()) for score in tensors) <= count:
            high = middle
        else:
            low = middle
    return high


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
