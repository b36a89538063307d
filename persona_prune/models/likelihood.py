"""Log-probabilities of answers, several answers to one prompt in one row, so that their prompt is computed once.

A row is ``prompt + branch 0 + branch 1 + ...``; the attention mask lets each branch see the prompt and itself only,
and positions restart at every branch, so each branch gets what it would get in a sequence of its own. What all prompts
begin with (a chat template's system message) is computed once for all rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import DynamicCache

from persona_prune.models.loaded import LoadedModel
from persona_prune.models.rows import Batch, Row, batches, pack

PIECE = 64  # so many rows of logits stay in the processor's cache


class Prefix:
    """Keys and values of tokens that every row begins with, computed once. Differentiable."""

    def __init__(self, model: Any, tokens: Sequence[int]) -> None:
        self.tokens = tuple(tokens)
        ids = torch.tensor([list(tokens)], device=model.device)
        cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        self._layers = [(layer.keys, layer.values) for layer in cache.layers]

    def for_rows(self, rows: int) -> DynamicCache:
        """Return a cache of the prefix for ``rows`` rows, which a forward pass may extend."""
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self._layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        return cache


def split_prefix(model: Any, rows: Sequence[Row]) -> tuple[tuple[int, ...], list[Row]]:
    """Return the tokens that all ``rows`` begin with and the rows without them; no tokens where it isn't worth it.

    At least one prompt token stays in each row, as the first answer token is predicted from it. Models with a sliding
    window are left alone: their caches may drop part of a prefix.
    """
    first, last = min(row.prompt[:-1] for row in rows), max(row.prompt[:-1] for row in rows)
    shared = first[: next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))]
    if len(rows) < 2 or len(shared) < 4 or getattr(model.config, "sliding_window", None):
        return (), list(rows)
    return shared, [Row(row.prompt[len(shared) :], row.branches) for row in rows]


def forward(model: Any, batch: Batch, prefix: Prefix | None = None) -> Tensor:
    """Run the model on a packed batch; return logits ``[answer tokens, vocabulary]`` at ``batch.sources``.

    With a ``prefix``, the rows are what follows it. The LM head sees the positions that predict answers only: with a
    large vocabulary it would cost a third of the pass.
    """
    rows, _, length, _ = batch.allowed.shape
    before = len(prefix.tokens) if prefix else 0
    bias = torch.zeros(rows, 1, length, before + length, dtype=model.dtype, device=batch.allowed.device)
    bias[..., before:].masked_fill_(~batch.allowed, torch.finfo(model.dtype).min)

    def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        hidden = inputs[0].flatten(0, 1)
        return (hidden.index_select(0, batch.sources.to(hidden.device))[None],)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        output = model(
            input_ids=batch.input_ids,
            attention_mask=bias,
            position_ids=batch.position_ids + before,
            past_key_values=prefix.for_rows(rows) if prefix else None,
            use_cache=prefix is not None,
        )
    finally:
        handle.remove()
    logits: Tensor = output.logits.squeeze(0)  # indexing would copy the gradient
    return logits


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
    for indices in batches(rows, batch_size):
        batch = pack([rows[i] for i in indices], loaded.pad_id, model.device)
        scored = branch_answers(forward(model, batch, prefix), batch)
        for i, answers in zip(indices, scored, strict=True):
            results[i] = [Answer(a.log_probs.cpu(), a.likeliest.cpu()) for a in answers]
        on_batch(len(indices))
    return results
