"""Gradients of what answers are worth, with respect to every maskable weight. No weight is updated."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from persona_prune.likelihood import Answer, Row, batches, branch_answers, forward, pack

Objective = Callable[[Sequence[int], list[list[Answer]]], Tensor]
"""``objective(row numbers, answers of those rows)`` -> the sum over rows of what their answers are worth, a scalar."""


@contextmanager
def weight_gradients(linears: Mapping[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """Collect, by Linear, the sum of all gradients that backward passes in the body give, ``[out, in]`` float32.

    Each weight's own gradient is freed as soon as it is added, so that beyond the sums only one layer's gradient exists
    at a time. The weights require no gradient before and after.
    """
    sums = {name: torch.zeros_like(module.weight, dtype=torch.float32) for name, module in linears.items()}
    handles = []
    try:
        for name, module in linears.items():

            def add(weight: Tensor, name: str = name) -> None:
                assert weight.grad is not None
                sums[name] += weight.grad
                weight.grad = None

            module.weight.requires_grad_(True)
            handles.append(module.weight.register_post_accumulate_grad_hook(add))  # type: ignore[no-untyped-call]
        yield sums
    finally:
        for handle in handles:
            handle.remove()
        for module in linears.values():
            module.weight.requires_grad_(False)
            module.weight.grad = None


def add_gradient(
    model: Any,
    rows: Sequence[Row],
    objective: Objective,
    *,
    weight: float,
    pad_id: int,
    batch_size: int,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> None:
    """Run ``weight`` times the mean of ``objective`` over ``rows`` backward, in batches, inside `weight_gradients`."""
    for indices in batches(rows, batch_size):
        batch = pack([rows[i] for i in indices], pad_id, model.device)
        with torch.enable_grad():
            value = objective(indices, branch_answers(forward(model, batch), batch))
            (value * (weight / len(rows))).backward()  # type: ignore[no-untyped-call]
        on_batch(len(indices))


def margin(_: Sequence[int], answers: list[list[Answer]]) -> Tensor:
    """Per-token log-probability of the first answer minus the second's, summed over rows (nats)."""
    return torch.stack([first.log_probs.mean() - second.log_probs.mean() for first, second in answers]).sum()


def log_probability(_: Sequence[int], answers: list[list[Answer]]) -> Tensor:
    """Per-token log-probability of the only answer, summed over rows (nats)."""
    return torch.stack([only.log_probs.mean() for (only,) in answers]).sum()
