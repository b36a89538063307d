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
    """Rows side by side: packed, left-padded, or one answer a row and padding behind it.

    Attributes:
        input_ids: ``[rows, length]`` token ids.
        position_ids: ``[rows, length]`` positions within prompt + own branch; None where the model's own are right.
        allowed: ``[rows, 1, length, length]`` bool, True where the query (third axis) may see the key (last axis); None
            where a row has one answer, and the model's own mask is right.
        branch: ``[rows, length]`` int, -2 for padding, -1 for the prompt, else the number of the branch.
        sources: ``[answer tokens]``, flat positions from which the branch tokens are predicted, row by row.
        labels: ``[answer tokens]``, the branch tokens themselves.
        rows: the rows themselves.
        alone: the model takes one sequence at a time, without padding.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    allowed: Tensor | None
    branch: Tensor
    sources: Tensor
    labels: Tensor
    rows: tuple[Row, ...]
    alone: bool

    def parts(self) -> "list[Batch]":
        """Return the batches that the model takes at once, with flat positions of their own, in this one's order."""
        if not self.alone:
            return [self]
        found = []
        rows = [(row, number) for row in self.rows for number in range(len(row.branches))]
        sizes = [len(row.branches[number]) for row, number in rows]
        for i, ((row, number), labels) in enumerate(zip(rows, torch.split(self.labels, sizes), strict=True)):
            length = len(row.prompt) + sizes[i]
            kept = slice(i, i + 1), slice(length)
            sources = torch.arange(len(row.prompt) - 1, length - 1, device=labels.device)
            only = Row(row.prompt, (row.branches[number],))
            found.append(
                Batch(self.input_ids[kept], None, None, self.branch[kept], sources, labels, (only,), alone=False)
            )
        return found


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
    """Lay ``rows`` out as one left-padded batch, all branches of a prompt in one row."""
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
    return Batch(ids, positions, allowed, branch, index, targets, tuple(rows), alone=False)


def apart(rows: Sequence[Row], pad_id: int, device: torch.device | str, *, alone: bool) -> Batch:
    """Lay ``rows`` out with one branch a row, padding behind it, where no token of a causal model sees it.

    ``alone`` has the model take one sequence at a time, for those to which even that makes a difference.
    """
    sequences = [(row.prompt, number, branch) for row in rows for number, branch in enumerate(row.branches)]
    length = max(len(prompt) + len(branch) for prompt, _, branch in sequences)
    ids = torch.full((len(sequences), length), pad_id)
    kinds = torch.full((len(sequences), length), -2)
    sources: list[int] = []
    labels: list[int] = []
    for i, (prompt, number, branch) in enumerate(sequences):
        end = len(prompt) + len(branch)
        ids[i, :end] = torch.tensor((*prompt, *branch), dtype=torch.long)
        kinds[i, : len(prompt)] = -1
        kinds[i, len(prompt) : end] = number
        sources += range(i * length + len(prompt) - 1, i * length + end - 1)
        labels += branch
    index, targets = (torch.tensor(values, dtype=torch.long, device=device) for values in (sources, labels))
    return Batch(ids.to(device), None, None, kinds.to(device), index, targets, tuple(rows), alone=alone)
