"""Log-probabilities of answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from persona_prune.models.loaded import LoadedModel
from persona_prune.models.packing import laid_out, split_prefix
from persona_prune.models.passes import Prefix, forward
from persona_prune.models.rows import Batch, Row

PIECE = 64  # so many rows of logits stay in the processor's cache


@dataclass(frozen=True)
class Answer:
    """Log-probability of each token of an answer, ``[tokens]`` float32, and the likeliest token in its place."""

    log_probs: Tensor
    likeliest: Tensor


def branch_answers(logits: Tensor, batch: Batch) -> list[list[Answer]]:
    """Return the `Answer` of every row and branch; a backward pass overwrites the ``logits``, which `forward` made."""
    labels = batch.labels.to(logits.device)
    function: Any = _LabelLogProbs.apply if logits.requires_grad else _label_log_probs
    log_probs = function(logits, labels)
    likeliest = torch.cat([piece.argmax(1) for piece in torch.split(logits.detach(), PIECE)])
    sizes = [len(branch) for row in batch.rows for branch in row.branches]
    answers = iter(
        Answer(*both) for both in zip(torch.split(log_probs, sizes), torch.split(likeliest, sizes), strict=True)
    )
    return [[next(answers) for _ in row.branches] for row in batch.rows]


def _label_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    pieces = zip(torch.split(logits, PIECE), torch.split(labels, PIECE), strict=True)
    return torch.cat([-functional.cross_entropy(x.float(), y, reduction="none") for x, y in pieces])


class _LabelLogProbs(torch.autograd.Function):
    """Keeps logits only; autograd would keep log-softmax and two copies of the gradient when memory is fullest."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        return _label_log_probs(logits, labels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        parts = (torch.split(tensor, PIECE) for tensor in (logits, labels, gradient))
        for piece, y, outer in zip(*parts, strict=True):
            with torch.enable_grad():
                x = piece.detach().requires_grad_()
                (found,) = torch.autograd.grad(_label_log_probs(x, y), x, outer)
            piece.copy_(found)
        return logits, None


@torch.inference_mode()
def score(
    loaded: LoadedModel,
    rows: Sequence[Row],
    batch_size: int,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> list[list[Answer]]:
    """Return the `Answer` (on the CPU) of each row and branch, in the order of ``rows``."""
    results: list[list[Answer]] = [[] for _ in rows]
    model = loaded.model
    shared, rows = split_prefix(model, rows)
    prefix = Prefix(model, shared) if shared else None
    for indices, batch in laid_out(model, rows, pad_id=loaded.pad_id, batch_size=batch_size):
        scored = branch_answers(forward(model, batch, prefix), batch)
        for i, answers in zip(indices, scored, strict=True):
            results[i] = [Answer(a.log_probs.cpu(), a.likeliest.cpu()) for a in answers]
        on_batch(len(indices))
    return results
