"""Slow, obvious versions of what the package does fast."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def row_top_k(score: list[list[float]], tie_break: list[list[float]], sparsity: float) -> list[list[bool]]:
    """Sort every row by score, then tie-break, then column, and keep floor((1 - sparsity) n)."""
    keep = []
    for scores, ties in zip(score, tie_break):
        n = len(scores)
        kept = math.floor(round((1 - sparsity) * n, 6))
        order = sorted(range(n), key=lambda j: (-scores[j], -ties[j], j))
        keep.append([j in order[:kept] for j in range(n)])
    return keep


def answer_log_probs(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """One sequence, one forward pass, log-softmax over everything."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0].float().log_softmax(-1)
    return torch.stack([log_probs[len(prompt) - 1 + i, token] for i, token in enumerate(answer)])


def input_statistics(
    model: Any, linear: nn.Linear, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], positions: str
) -> dict[str, Tensor]:
    """Keep every activation of every sequence, one sequence at a time, and average at the end."""
    kept: list[Tensor] = []
    handle = linear.register_forward_hook(lambda _m, inputs, _o: kept.append(inputs[0][0].double()))
    tokens, norms = [], []
    for prompt, answer in sequences:
        kept.clear()
        with torch.no_grad():
            model(input_ids=torch.tensor([[*prompt, *answer]]))
        chosen = kept[0] if positions == "all" else kept[0][len(prompt) :]
        tokens.append(chosen)
        norms.append((chosen**2).mean(0).sqrt())
    handle.remove()
    everything, norm = torch.cat(tokens), torch.stack(norms)
    return {
        "mean": everything.mean(0),
        "mean_abs": everything.abs().mean(0),
        "mean_square": (everything**2).mean(0),
        "sequence_mean": norm.mean(0),
        "sequence_variance": norm.var(0, unbiased=False),
    }


def disjoint(
    score: list[float], other: list[float], ties: list[float], other_ties: list[float], kept: int
) -> tuple[set[int], set[int]]:
    """One row, by hand: owners first, then what the other side leaves, then what it keeps."""
    n = len(score)
    own = {
        j
        for j in range(n)
        if (score[j], ties[j]) > (other[j], other_ties[j])
        or ((score[j], ties[j]) == (other[j], other_ties[j]) and j % 2 == 0)
    }

    def best(candidates: set[int], values: list[float], breaks: list[float], count: int) -> list[int]:
        return sorted(candidates, key=lambda j: (-values[j], -breaks[j], j))[:count]

    theirs = set(range(n)) - own
    mine, yours = set(best(own, score, ties, kept)), set(best(theirs, other, other_ties, kept))
    my_fill = best(theirs - yours, score, ties, kept - len(mine))
    my_more = best(yours, score, ties, kept - len(mine) - len(my_fill))
    your_fill = best(own - mine, other, other_ties, kept - len(yours))
    your_more = best(mine, other, other_ties, kept - len(yours) - len(your_fill))
    return mine | set(my_fill) | set(my_more), yours | set(your_fill) | set(your_more)
