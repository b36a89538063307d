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


def output_fisher(
    model: Any,
    linears: Mapping[str, nn.Linear],
    rows: Sequence[Row],
    *,
    pad_id: int,
    batch_size: int,
    seed: int,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> dict[str, Tensor]:
    """Return, by Linear, ``E[delta_i^2]`` over tokens, ``[out_features]`` float32 on the CPU.

    ``delta`` is the gradient of the log-probability of answers with respect to the Linear's output. The answers are
    sampled, token by token, from the model's own distribution at every answer position of ``rows``, so that
    ``E[delta_i^2] E[x_j^2]`` is the diagonal of the K-FAC Fisher matrix (Martens and Grosse 2015): what a change of
    ``w_ij`` costs the model on this text, comparable across rows and layers.
    """
    sums = {name: torch.zeros(module.out_features, dtype=torch.float64) for name, module in linears.items()}
    tokens = 0
    handles = []
    try:
        for name, module in linears.items():

            def add(_: nn.Module, __: Any, outputs: Any, name: str = name) -> None:
                sums[name] += outputs[0].flatten(0, -2).float().square().sum(0).cpu().double()

            handles.append(module.register_full_backward_hook(add))
        # Nothing requires a gradient but what enters the first layer.
        embeddings = model.get_input_embeddings()
        handles.append(embeddings.register_forward_hook(lambda _m, _i, output: output.requires_grad_(True)))
        generator = torch.Generator().manual_seed(seed)
        for indices in batches(rows, batch_size):
            batch = pack([rows[i] for i in indices], pad_id, model.device)
            with torch.enable_grad():
                log_probs = forward(model, batch).float().log_softmax(-1)
                sampled = torch.multinomial(log_probs.detach().exp().cpu(), 1, generator=generator)
                log_probs.gather(1, sampled.to(log_probs.device)).sum().backward()  # type: ignore[no-untyped-call]
            tokens += int((batch.branch >= -1).sum())
            on_batch(len(indices))
    finally:
        for handle in handles:
            handle.remove()
    return {name: (total / tokens).float() for name, total in sums.items()}


def margin(_: Sequence[int], answers: list[list[Answer]]) -> Tensor:
    """Per-token log-probability of the first answer minus the second's, summed over rows (nats)."""
    return torch.stack([first.log_probs.mean() - second.log_probs.mean() for first, second in answers]).sum()


def log_probability(_: Sequence[int], answers: list[list[Answer]]) -> Tensor:
    """Per-token log-probability of the only answer, summed over rows (nats)."""
    return torch.stack([only.log_probs.mean() for (only,) in answers]).sum()
