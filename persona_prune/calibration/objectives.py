"""What answers are worth: the objectives that gradients are taken of."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from persona_prune.models.likelihood import Answer

Objective = Callable[[Sequence[int], list[list[Answer]]], Tensor]
"""``objective(row numbers, answers of those rows)`` -> the sum over rows of what their answers are worth, a scalar."""
_FIRST_TOKENS = 2
_FIRST_WEIGHT = 0.3
_SUM_SCALE = 8.0  # nats of summed margin that count like one nat per token


def margin(_: Sequence[int], answers: list[list[Answer]]) -> Tensor:
    """Per-token log-probability of the first answer minus the second's, summed over rows (nats)."""
    return torch.stack([first.log_probs.mean() - second.log_probs.mean() for first, second in answers]).sum()


def logistic_margin(_: Sequence[int], answers: list[list[Answer]]) -> Tensor:
    """``-softplus(-m) - softplus(-M / 8)``, summed over rows, of the margins per token ``m`` and in sum ``M``.

    Pairs that are won already hardly count, so that several rounds work on those that aren't; the summed margin is what
    ``accuracy`` compares.
    """
    token = torch.stack([first.log_probs.mean() - second.log_probs.mean() for first, second in answers])
    whole = torch.stack([first.log_probs.sum() - second.log_probs.sum() for first, second in answers])
    return -(functional.softplus(-token) + functional.softplus(-whole / _SUM_SCALE)).sum()


def and_own(objective: Objective, weight: float) -> Objective:
    """Return ``objective`` plus ``weight`` times the per-token log-probability of the first answers, summed over rows.

    A margin also grows where both answers become unlikely, the second one more so: then the persona is not there, only
    its opposite is gone. Preference optimisation has the same failure and the same remedy (Pang et al. 2024,
    arXiv:2404.19733).
    """

    def combined(indices: Sequence[int], answers: list[list[Answer]]) -> Tensor:
        own = torch.stack([first.log_probs.mean() for first, *_ in answers]).sum()
        return objective(indices, answers) + weight * own

    return combined


def log_probability(_: Sequence[int], answers: list[list[Answer]]) -> Tensor:
    """Per-token log-probability of the only answer, and 0.3 times that of its first two tokens, summed over rows.

    The first tokens decide where an answer goes; without them a mask can win by beginning every answer alike.
    """
    alone = [only.log_probs for (only,) in answers]
    return torch.stack([x.mean() + _FIRST_WEIGHT * x[:_FIRST_TOKENS].mean() for x in alone]).sum()
