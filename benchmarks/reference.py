"""What a paper's script does, written plainly from its equations: nothing shared, nothing batched, nothing packed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from persona_prune.calibration.signatures import Statistics
from persona_prune.models.rows import Row


@torch.no_grad()
def signature(model: Any, linears: Mapping[str, nn.Linear], rows: Sequence[Row], branch: int) -> dict[str, Statistics]:
    """Return the statistics of every Linear's input over the tokens of one answer to each prompt.

    One sentence at a time, and one hook for every Linear that copies its input to the host.
    """
    kept: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _m, inputs, _o, name=name: kept.update({name: inputs[0][0].float().cpu()}))
        for name, module in linears.items()
    ]
    sums = {name: torch.zeros(3, module.in_features, dtype=torch.float64) for name, module in linears.items()}
    norms: dict[str, list[Tensor]] = {name: [] for name in linears}
    tokens = 0
    try:
        for row in rows:
            sentence = torch.tensor([[*row.prompt, *row.branches[branch]]], device=model.device)
            model(input_ids=sentence)
            tokens += len(row.branches[branch])
            for name, read in kept.items():
                answer = read[len(row.prompt) :]
                sums[name][0] += answer.sum(0)
                sums[name][1] += answer.abs().sum(0)
                sums[name][2] += (answer**2).sum(0)
                norms[name].append((answer**2).mean(0).sqrt())
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name in linears:
        mean, mean_abs, mean_square = (sums[name] / tokens).float()
        norm = torch.stack(norms[name]).double()
        spread = norm.var(0, unbiased=False).float()
        found[name] = Statistics(mean, mean_abs, mean_square, norm.mean(0).float(), spread)
    return found


def scores(method: str, weight: Tensor, target: Statistics, contrast: Statistics) -> Tensor:
    """Return the scores of equations 3, 5, 8 and 9 for one Linear, with the settings of ``conf/method``."""
    if method == "wanda":
        return weight.abs() * target.mean_abs
    if method == "magnitude":
        return weight.abs()
    if method == "sparse":
        return _second_order(weight, target)
    if method == "contrastive_sparse":
        plus, minus = _second_order(weight, target), _second_order(weight, contrast)
        return plus / plus.sum(1, keepdim=True) - minus / minus.sum(1, keepdim=True)
    if method == "contrastive_wanda":
        mean = target.mean_abs - contrast.mean_abs
        variance = target.mean_square - target.mean_abs**2 + (contrast.mean_square - contrast.mean_abs**2)
        return weight.abs() * functional.softplus(mean / (variance.clamp(min=0) + 1e-8).sqrt())
    raise ValueError(f"no reference for the scores of {method}")


def keep(score: Tensor, sparsity: float) -> Tensor:
    """Return equation 4, one row after the other: the largest scores, of equal ones the first."""
    rows, columns = score.shape
    kept = int((1 - sparsity) * columns + 1e-9)
    chosen = torch.zeros(rows, columns, dtype=torch.bool)
    for i in range(rows):
        best = score[i].sort(descending=True, stable=True).indices[:kept]
        chosen[i, best] = True
    return chosen


def keep_disjoint(score: Tensor, other: Tensor, sparsity: float) -> tuple[Tensor, Tensor]:
    """Return what two poles keep, one row after the other: what is theirs first, then what the other leaves.

    For scores that are all different.
    """
    rows, columns = score.shape
    kept = int((1 - sparsity) * columns + 1e-9)
    both = torch.zeros(2, rows, columns, dtype=torch.bool)
    for i in range(rows):
        first, second = score[i].numpy(), other[i].numpy()
        own = first > second
        mine = _best(first, own, kept)
        yours = _best(second, ~own, kept)
        left, right = np.zeros(columns, dtype=bool), np.zeros(columns, dtype=bool)
        left[mine], right[yours] = True, True
        my_fill = _best(first, ~own & ~right, kept - len(mine))
        your_fill = _best(second, own & ~left, kept - len(yours))
        my_more = _best(first, ~own & right, kept - len(mine) - len(my_fill))
        your_more = _best(second, own & left, kept - len(yours) - len(your_fill))
        both[0, i, np.concatenate([mine, my_fill, my_more])] = True
        both[1, i, np.concatenate([yours, your_fill, your_more])] = True
    return both[0], both[1]


def save_bool_files(directory: Path, masks: Mapping[str, Tensor]) -> int:
    """Write one file of bools for every Linear, and return how many bytes they take."""
    for name, mask in masks.items():
        torch.save(mask, directory / f"{name}.pt")
    return sum((directory / f"{name}.pt").stat().st_size for name in masks)


@torch.no_grad()
def apply_bool_files(directory: Path, weights: Mapping[str, Tensor]) -> None:
    """Multiply weights with the masks of `save_bool_files` (equation 6), for good."""
    for name, weight in weights.items():
        weight.mul_(torch.load(directory / f"{name}.pt").to(weight.device))


@torch.no_grad()
def choice(model: Any, row: Row) -> list[float]:
    """Return the log-probability of every answer to one prompt (nats), one forward pass each."""
    totals = []
    for answer in row.branches:
        ids = torch.tensor([[*row.prompt, *answer]], device=model.device)
        log_probs = model(input_ids=ids).logits[0].float().log_softmax(-1)
        at = torch.arange(len(row.prompt) - 1, ids.shape[1] - 1, device=ids.device)
        totals.append(log_probs[at, ids[0, len(row.prompt) :]].double().sum().item())
    return totals


def _second_order(weight: Tensor, statistics: Statistics) -> Tensor:
    return weight**2 * (statistics.mean_square + 0.01 * statistics.mean_square.mean())


def _best(score: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    candidates = np.flatnonzero(among)
    return candidates[np.argsort(-score[candidates], kind="stable")][: max(0, count)]
