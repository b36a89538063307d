"""Rows of tokens: a prompt and its answers, texts in windows, and batches of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from persona_prune.models.chat_text import answer_lead, chat_prompt, encode_answer
from persona_prune.models.control_tokens import refuse_control_tokens
from persona_prune.personas.pairs import Pair


@dataclass(frozen=True)
class Row:
    """One prompt and the answers to it, as token ids."""

    prompt: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(branch) for branch in self.branches)


@dataclass(frozen=True)
class Batch:
    """Left-padded rows.

    Attributes:
        input_ids: ``[rows, length]`` token ids.
        position_ids: ``[rows, length]`` positions within prompt + own branch.
        allowed: ``[rows, 1, length, length]`` bool, True where the query (third axis) may see the key (last axis).
        branch: ``[rows, length]`` int, -2 for padding, -1 for the prompt, else the number of the branch.
        sources: ``[answer tokens]``, flat positions from which the branch tokens are predicted, row by row.
        labels: ``[answer tokens]``, the branch tokens themselves.
        rows: the rows themselves.
    """

    input_ids: Tensor
    position_ids: Tensor
    allowed: Tensor
    branch: Tensor
    sources: Tensor
    labels: Tensor
    rows: tuple[Row, ...]


def pair_rows(tokenizer: Any, pairs: Iterable[Pair], max_tokens: int) -> list[Row]:
    """Return one row a pair, branch 0 the matching and branch 1 the other answer, each sequence cut at ``max_tokens``.

    Raises:
        ValueError: a prompt alone fills ``max_tokens``, so that no answer would be seen.
    """
    rows = []
    lead = answer_lead(tokenizer)
    for pair in pairs:
        context = chat_prompt(tokenizer, pair.prompt)
        prompt, matching = encode_answer(tokenizer, context, lead + pair.matching)
        _, other = encode_answer(tokenizer, context, lead + pair.not_matching)
        room = max_tokens - len(prompt)
        if room < 1:
            raise ValueError(
                f"the prompt {pair.prompt[:60]!r} has {len(prompt)} tokens, which leaves no room for an answer: "
                f"raise max_tokens (now {max_tokens})"
            )
        rows.append(Row(prompt, (matching[:room], other[:room])))
    return rows


def text_rows(tokenizer: Any, text: str, window: int, limit: int) -> list[Row]:
    """Return the first ``limit`` tokens of a plain text as rows of ``window`` tokens, with one branch each.

    Where the tokenizer begins texts with a BOS token, every window does; else its first token is the prompt.

    Raises:
        ValueError: the text holds one of the tokenizer's control tokens.
    """
    refuse_control_tokens(tokenizer, text, "the text")
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids[:limit]
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    step = window - 1 if begins else window
    parts = [ids[start : start + step] for start in range(0, len(ids), step)]
    if begins:
        return [Row((tokenizer.bos_token_id,), (tuple(part),)) for part in parts]
    return [Row((part[0],), (tuple(part[1:]),)) for part in parts if len(part) > 1]


def batches(rows: Sequence[Row], batch_size: int, most_tokens: int | None = None) -> Iterator[list[int]]:
    """Yield indices into ``rows`` in batches of similar length, the same ones whatever the order of the rows.

    A batch has ``batch_size`` rows, or as many as, padded, have ``most_tokens`` tokens; at least one.
    """
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: (len(rows[i]), rows[i].prompt, rows[i].branches)):
        full = most_tokens is not None and (len(batch) + 1) * len(rows[i]) > most_tokens
        if batch and (full or len(batch) == batch_size):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pack(rows: Sequence[Row], pad_id: int, device: torch.device | str) -> Batch:
    """Lay ``rows`` out as one left-padded batch."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    branch = torch.full((len(rows), length), -2)
    sources: list[int] = []
    labels: list[int] = []
    for i, row in enumerate(rows):
        at = length - len(row)
        for number, tokens in enumerate((row.prompt, *row.branches), start=-1):
            end = at + len(tokens)
            first = 0 if number == -1 else len(row.prompt)
            ids[i, at:end] = torch.tensor(tokens, dtype=torch.long)
            positions[i, at:end] = torch.arange(first, first + len(tokens))
            branch[i, at:end] = number
            if number >= 0 and tokens:
                last_prompt = length - len(row) + len(row.prompt) - 1
                sources += [i * length + source for source in (last_prompt, *range(at, end - 1))]
                labels += tokens
            at = end
    ids, positions, branch = ids.to(device), positions.to(device), branch.to(device)
    query, key = branch[:, None, :, None], branch[:, None, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    # Padding attends to padding, so that no row of the softmax is empty.
    allowed = ((key == query) | ((key == -1) & (query >= 0))) & causal
    index, targets = (torch.tensor(values, dtype=torch.long, device=device) for values in (sources, labels))
    return Batch(ids, positions, allowed, branch, index, targets, tuple(rows))
