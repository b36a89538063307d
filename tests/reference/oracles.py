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
