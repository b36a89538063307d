"""Log-probabilities of answers, several answers to one prompt in one row, so that their prompt is computed once.

A row is ``prompt + branch 0 + branch 1 + ...``; the attention mask lets each branch see the prompt and itself only,
and positions restart at every branch, so each branch gets what it would get in a sequence of its own. What all prompts
begin with (a chat template's system message) is computed once for all rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import DynamicCache

from persona_prune.personas import Pair

PIECE = 64  # so many rows of logits stay in the processor's cache


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


def chat_prompt(tokenizer: Any, prompt: str, before: Sequence[Mapping[str, str]] = ()) -> str:
    """Return ``prompt``, after the messages ``before`` it, as the chat template renders it, ready for the answer."""
    return render_chat(tokenizer, [*before, {"role": "user", "content": prompt}])


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, answer_next: bool = True) -> str:
    """Return messages as the chat template renders them; templates that can think before they answer don't."""
    text = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=answer_next, enable_thinking=False
    )
    return str(text)


def answer_lead(tokenizer: Any) -> str:
    """Return what the chat template puts between prompt and answer, such as the space after Llama 2's ``[/INST]``."""
    messages = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": "Answer"}]
    whole, prompt = render_chat(tokenizer, messages, answer_next=False), chat_prompt(tokenizer, "Question")
    lead, found, _ = whole[len(prompt) :].partition("Answer")
    return lead if found and whole.startswith(prompt) and not lead.strip() else ""


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
    """
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
    model: Any,
    rows: Sequence[Row],
    *,
    pad_id: int,
    batch_size: int,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> list[list[Answer]]:
    """Return the `Answer` (on the CPU) of each row and branch, in the order of ``rows``."""
    results: list[list[Answer]] = [[] for _ in rows]
    shared, rows = split_prefix(model, rows)
    prefix = Prefix(model, shared) if shared else None
    for indices in batches(rows, batch_size):
        batch = pack([rows[i] for i in indices], pad_id, model.device)
        scored = branch_answers(forward(model, batch, prefix), batch)
        for i, answers in zip(indices, scored, strict=True):
            results[i] = [Answer(a.log_probs.cpu(), a.likeliest.cpu()) for a in answers]
        on_batch(len(indices))
    return results
