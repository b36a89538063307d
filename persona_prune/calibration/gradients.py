"""Gradients of what answers are worth, with respect to every maskable weight. No weight is updated."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from persona_prune.calibration.objectives import Objective
from persona_prune.models.likelihood import branch_answers
from persona_prune.models.packing import laid_out, split_prefix
from persona_prune.models.passes import Prefix, forward
from persona_prune.models.rows import Row

_TOKENS_PER_ROW = 160  # on average over a batch, padded; what is shorter comes in batches as large as asked for


@dataclass(frozen=True)
class LowRank:
    """A matrix ``left @ right``: ``[out_features, rank]`` and ``[rank, in_features]``, float32 on the CPU."""

    left: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        """Return the matrix ``[out_features, in_features]``.

        Summed term by term, so that every machine gets the same bits.
        """
        total = torch.zeros(self.left.shape[0], self.right.shape[1])
        for column, row in zip(self.left.T, self.right, strict=True):
            total += column[:, None] * row
        return total


class Sketch:
    """Two random projections of a gradient ``G [out, in]`` that is never formed: ``G Omega`` and ``Psi G``.

    The single-pass sketch of Tropp, Yurtsever, Udell and Cevher (2017, algorithm 4). ``G`` is a sum over tokens of
    ``delta x^T``, so both projections are sums of thin products.
    """

    def __init__(self, module: nn.Linear, rank: int, generator: torch.Generator) -> None:
        columns = min(16 * rank, module.in_features, module.out_features)
        rows = min(2 * columns + 1, module.out_features)
        device = module.weight.device
        self._omega = torch.randn(module.in_features, columns, generator=generator).to(device)
        self._psi = torch.randn(module.out_features, rows, generator=generator).to(device)
        self._right = torch.zeros(module.out_features, columns, device=device)
        self._left = torch.zeros(rows, module.in_features, device=device)
        self._rank = rank

    @property
    def nbytes(self) -> int:
        """Memory that the projections and their matrices take."""
        return sum(tensor.nbytes for tensor in (self._omega, self._psi, self._right, self._left))

    def add(self, delta: Tensor, inputs: Tensor) -> None:
        """Add ``delta^T inputs``, of ``[tokens, out_features]`` and ``[tokens, in_features]``."""
        delta, inputs = delta.float(), inputs.float()
        self._right += delta.T @ (inputs @ self._omega)
        self._left += (delta @ self._psi).T @ inputs

    def low_rank(self) -> LowRank:
        """Return a near-best approximation of ``G`` of the sketch's rank."""
        right, left, psi = (t.cpu().double() for t in (self._right, self._left, self._psi))
        basis = torch.linalg.qr(right).Q
        core = torch.linalg.lstsq(psi.T @ basis, left, driver="gelsd").solution
        u, s, vh = torch.linalg.svd(core, full_matrices=False)
        rank = min(self._rank, len(s))
        return LowRank((basis @ u[:, :rank] * s[:rank]).float(), vh[:rank].float().contiguous())


@contextmanager
def gradient_sketches(
    model: Any, linears: Mapping[str, nn.Linear], *, rank: int, seed: int
) -> Iterator[dict[str, Sketch]]:
    """Sketch, by Linear, the sum of all weight gradients that backward passes in the body give.

    No gradient of a weight is ever computed: a third of a training step's work and all of its gradient memory are
    saved. The sketches' projections depend on ``seed`` only.
    """
    generator = torch.Generator().manual_seed(seed)
    sketches = {name: Sketch(module, rank, generator) for name, module in linears.items()}
    with output_gradients(model, linears, lambda name, delta, inputs: sketches[name].add(delta, inputs)):
        yield sketches


@contextmanager
def output_gradients(
    model: Any, linears: Mapping[str, nn.Linear], observe: Callable[[str, Tensor, Tensor], object]
) -> Iterator[None]:
    """Call ``observe(name, delta, inputs)`` for every use of a Linear that a backward pass in the body goes through.

    ``delta [tokens, out_features]`` is the gradient with respect to the Linear's output, ``inputs [tokens,
    in_features]`` what it was computed from. No parameter needs a gradient.
    """

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def forward_hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if output.requires_grad:
                read = inputs[0].detach().flatten(0, -2)

                def backward_hook(delta: Tensor) -> None:
                    observe(name, delta.detach().flatten(0, -2), read)

                output.register_hook(backward_hook)  # type: ignore[no-untyped-call]

        return forward_hook

    with ExitStack() as hooks:
        for name, module in linears.items():
            hooks.callback(module.register_forward_hook(hook(name)).remove)
        # Nothing requires a gradient but what enters the first layer.
        embeddings = model.get_input_embeddings()
        handle = embeddings.register_forward_hook(lambda _m, _i, output: output.requires_grad_(torch.is_grad_enabled()))
        hooks.callback(handle.remove)
        yield


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
) -> float:
    """Run ``weight`` times the mean of ``objective`` over ``rows`` backward, in batches, inside one of the collectors.

    What all rows begin with is computed once a batch, and takes part in the gradient.

    Returns:
        The mean of the objective, without the weight.
    """
    shared, rest = split_prefix(model, rows)
    total = 0.0
    # All activations of a batch are kept for its backward pass: long rows come in smaller batches.
    most = batch_size * _TOKENS_PER_ROW
    for indices, batch in laid_out(model, rest, pad_id=pad_id, batch_size=batch_size, most_tokens=most):
        with torch.enable_grad():
            prefix = Prefix(model, shared) if shared else None
            value = objective(indices, branch_answers(forward(model, batch, prefix), batch))
            (value * (weight / len(rows))).backward()  # type: ignore[no-untyped-call]
        total += value.item()
        on_batch(len(indices))
    return total / len(rows)
