"""Log-probabilities of answers, several answers to one prompt in one row, so that their prompt is computed once.

A row is ``prompt + branch 0 + branch 1 + ...``; the attention mask lets each branch see the prompt and itself only,
and positions restart at every branch, so each branch gets what it would get in a sequence of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from persona_prune.personas import Pair


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
        tail: how many last positions hold every branch token and the token before the first of them.
        rows: the rows themselves.
    """

    input_ids: Tensor
    position_ids: Tensor
    allowed: Tensor
    branch: Tensor
    tail: int
    rows: tuple[Row, ...]


def chat_prompt(tokenizer: Any, prompt: str) -> str:
    """Return ``prompt`` as the model's chat template renders it, ready for the answer."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return str(text)


def encode_answer(tokenizer: Any, context: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return token ids of ``context`` and of ``answer`` after it.

    The boundary is where the context's own tokens end; if joining the two merges tokens across it, both are encoded
    on their own.
    """
    head = tuple(tokenizer(context, add_special_tokens=False).input_ids)
    whole = tuple(tokenizer(context + answer, add_special_tokens=False).input_ids)
    if whole[: len(head)] == head:
        return head, whole[len(head) :]
    return head, tuple(tokenizer(answer, add_special_tokens=False).input_ids)


def pair_rows(tokenizer: Any, pairs: Iterable[Pair], max_tokens: int) -> list[Row]:
    """Return one row a pair, branch 0 the matching and branch 1 the other answer, each sequence cut at ``max_tokens``.

    Raises:
        ValueError: a prompt alone fills ``max_tokens``, so that no answer would be seen.
    """
    rows = []
    for pair in pairs:
        context = chat_prompt(tokenizer, pair.prompt)
        prompt, matching = encode_answer(tokenizer, context, pair.matching)
        _, other = encode_answer(tokenizer, context, pair.not_matching)
        room = max_tokens - len(prompt)
        if room < 1:
            raise ValueError(
                f"the prompt {pair.prompt[:60]!r} has {len(prompt)} tokens, which leaves no room for an answer: "
                f"raise max_tokens (now {max_tokens})"
            )
        rows.append(Row(prompt, (matching[:room], other[:room])))
    return rows


def batches(rows: Sequence[Row], batch_size: int) -> Iterator[list[int]]:
    """Yield indices into ``rows`` in batches of similar length; which rows share a batch doesn't depend on their order."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), rows[i].prompt, rows[i].branches))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pack(rows: Sequence[Row], pad_id: int, device: torch.device | str) -> Batch:
    """Lay ``rows`` out as one left-padded batch."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    branch = torch.full((len(rows), length), -2)
    for i, row in enumerate(rows):
        at = length - len(row)
        for number, tokens in enumerate((row.prompt, *row.branches), start=-1):
            end = at + len(tokens)
            first = 0 if number == -1 else len(row.prompt)
            ids[i, at:end] = torch.tensor(tokens, dtype=torch.long)
            positions[i, at:end] = torch.arange(first, first + len(tokens))
            branch[i, at:end] = number
            at = end
    ids, positions, branch = ids.to(device), positions.to(device), branch.to(device)
    query, key = branch[:, None, :, None], branch[:, None, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    # Padding attends to padding, so that no row of the softmax is empty.
    allowed = ((key == query) | ((key == -1) & (query >= 0))) & causal
    tail = max(len(row) - len(row.prompt) for row in rows) + 1
    return Batch(ids, positions, allowed, branch, min(tail, length), tuple(rows))


def forward(model: Any, batch: Batch, *, tail: int | None = None) -> Tensor:
    """Run the model on a packed batch; return logits ``[rows, tail, vocabulary]`` of the last ``tail`` positions."""
    floor = torch.finfo(model.dtype).min
    bias = torch.zeros(batch.allowed.shape, dtype=model.dtype, device=batch.allowed.device)
    bias.masked_fill_(~batch.allowed, floor)
    output = model(
        input_ids=batch.input_ids,
        attention_mask=bias,
        position_ids=batch.position_ids,
        logits_to_keep=batch.tail if tail is None else tail,
        use_cache=False,
    )
    logits: Tensor = output.logits
    return logits


@dataclass(frozen=True)
class Answer:
    """How likely one answer is: token log-probabilities ``[tokens]`` float32, and whether each token is the likeliest."""

    log_probs: Tensor
    likeliest: Tensor


def branch_answers(logits: Tensor, batch: Batch) -> list[list[Answer]]:
    """Return the `Answer` of every row and branch; ``logits`` come from `forward`. Differentiable."""
    tail = logits.shape[1]
    offset = batch.input_ids.shape[1] - tail
    sources, targets, sizes = [], [], []
    for i, row in enumerate(batch.rows):
        last_prompt = batch.input_ids.shape[1] - len(row) + len(row.prompt) - 1
        start = last_prompt + 1
        for tokens in row.branches:
            from_positions = [last_prompt, *range(start, start + len(tokens) - 1)][: len(tokens)]
            sources += [i * tail + position - offset for position in from_positions]
            targets += tokens
            sizes.append(len(tokens))
            start += len(tokens)
    index = torch.tensor(sources, dtype=torch.long, device=logits.device)
    labels = torch.tensor(targets, dtype=torch.long, device=logits.device)
    chosen = logits.flatten(0, 1).index_select(0, index).float()
    log_probs = (-functional.cross_entropy(chosen, labels, reduction="none")).split(sizes)
    likeliest = (chosen.detach().argmax(-1) == labels).split(sizes)
    answers = iter(Answer(*both) for both in zip(log_probs, likeliest, strict=True))
    return [[next(answers) for _ in row.branches] for row in batch.rows]


@torch.inference_mode()
def score(
    model: Any,
    rows: Sequence[Row],
    *,
    pad_id: int,
    batch_size: int,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> list[list[Answer]]:
    """Return the `Answer` (on the CPU) of each row and branch, in the order of ``rows``."""
    results: list[list[Answer]] = [[] for _ in rows]
    for indices in batches(rows, batch_size):
        batch = pack([rows[i] for i in indices], pad_id, model.device)
        scored = branch_answers(forward(model, batch), batch)
        for i, answers in zip(indices, scored, strict=True):
            results[i] = [Answer(a.log_probs.cpu(), a.likeliest.cpu()) for a in answers]
        on_batch(len(indices))
    return results
