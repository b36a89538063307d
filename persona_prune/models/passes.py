"""A forward pass over a batch of rows, several answers to one prompt in one row, so that their prompt is computed once.

A row is ``prompt + branch 0 + branch 1 + ...``; the attention mask lets each branch see the prompt and itself only,
and positions restart at every branch, so each branch gets what it would get in a sequence of its own. What all prompts
begin with (a chat template's system message) is computed once for all rows. `packing` knows which models that is right
for; for the others a batch has one answer a row, and no mask.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from persona_prune.models.rows import Batch


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


def forward(model: Any, batch: Batch, prefix: Prefix | None = None) -> Tensor:
    """Run the model on a batch; return logits ``[answer tokens, vocabulary]`` at ``batch.sources``.

    With a ``prefix``, the rows are what follows it. The LM head sees the positions that predict answers only: with a
    large vocabulary it would cost a third of the pass.
    """
    parts = batch.parts()
    if len(parts) > 1:
        return torch.cat([forward(model, part, prefix) for part in parts])
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": prefix is not None}
    if batch.allowed is not None and batch.position_ids is not None:
        rows, _, length, _ = batch.allowed.shape
        before = len(prefix.tokens) if prefix else 0
        bias = torch.zeros(rows, 1, length, before + length, dtype=model.dtype, device=batch.input_ids.device)
        bias[..., before:].masked_fill_(~batch.allowed, torch.finfo(model.dtype).min)
        inputs |= {"attention_mask": bias, "position_ids": batch.position_ids + before}
        inputs |= {"past_key_values": prefix.for_rows(rows) if prefix else None}
    narrowed = False

    def select(_: nn.Module, read: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal narrowed
        hidden = read[0]
        narrowed = hidden.shape[:-1] == batch.input_ids.shape
        if not narrowed:
            return read
        return (hidden.flatten(0, 1).index_select(0, batch.sources.to(hidden.device))[None],)

    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(select) if isinstance(head, nn.Module) else None
    try:
        logits: Tensor = model(**inputs).logits
    finally:
        if handle is not None:
            handle.remove()
    if not narrowed:  # the head is used otherwise than as a module that reads one vector a token
        return logits.flatten(0, 1).index_select(0, batch.sources.to(logits.device))
    return logits.squeeze(0)  # indexing would copy the gradient
