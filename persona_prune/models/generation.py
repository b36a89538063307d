"""Answers of a model as it stands, greedy or sampled, in padded batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from persona_prune.models.chat_text import end_of_turn
from persona_prune.models.loaded import LoadedModel


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: above 0; logits are divided by it.
        top_p: in (0, 1]; draw among the likeliest tokens that together have this probability (Holtzman et al. 2020).
    """

    temperature: float
    top_p: float


def greedy_answers(
    loaded: LoadedModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> list[tuple[int, ...]]:
    """Return the greedy answers to ``prompts`` (token ids), as token ids without the end token.

    An answer is never empty: a model that ends at once is given back its end token.
    """
    return _answers(loaded, prompts, lambda _, __: [], max_new_tokens, batch_size, on_batch)


def answers(
    loaded: LoadedModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    seeds: Sequence[int | None],
    sampling: Sampling,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> list[tuple[int, ...]]:
    """Return one answer to each of ``prompts``, greedy or sampled, in the same batches; else like `greedy_answers`.

    Args:
        loaded: the model.
        prompts: token ids.
        seeds: one a prompt, None for a greedy answer. Each sampled answer has random numbers of its own, drawn on the
            CPU, so that batch size, order and device change it no more than they change the logits.
        sampling: how tokens are drawn.
        max_new_tokens: length of an answer at most.
        batch_size: answers per batch.
        on_batch: called with the number of answers done.
    """
    numbers = [
        None if seed is None else torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]

    def processors(chosen: list[int], width: int) -> list[LogitsProcessor]:
        drawn = [numbers[i] for i in chosen]
        sampled = [row for row, own in enumerate(drawn) if own is not None]
        return (
            [_Draw(torch.stack([own for own in drawn if own is not None]), sampled, sampling, width)] if sampled else []
        )

    return _answers(loaded, prompts, processors, max_new_tokens, batch_size, on_batch)


def end_tokens(loaded: LoadedModel) -> set[int]:
    """Return the ids of the tokens that end an answer.

    Those of the generation configuration, the tokenizer's own and the one that ends a turn in the chat template: a
    checkpoint's configuration may still be that of the base model, which knows no turns.
    """
    configured = loaded.model.generation_config.eos_token_id
    ends = [*(configured if isinstance(configured, list) else [configured])]
    ends += [loaded.tokenizer.eos_token_id, end_of_turn(loaded.tokenizer)]
    return {int(end) for end in ends if end is not None}


def drawn_tokens(scores: Tensor, numbers: Tensor) -> Tensor:
    """Return the token of each row where the cumulative probability, in the order of the vocabulary, passes a number.

    Args:
        scores: logits, ``[rows, vocabulary]``; -inf for what can't be drawn.
        numbers: ``[rows]`` uniform in [0, 1).

    Returns:
        int64 ``[rows]`` on the device of ``scores``.
    """
    # Sums of this many terms want float64, which Apple's GPUs don't have.
    there = scores.cpu() if scores.device.type == "mps" else scores
    cumulative = there.double().softmax(-1).cumsum(-1)
    aim = numbers.to(cumulative) * cumulative[:, -1]
    return (cumulative <= aim[:, None]).sum(-1).clamp(max=scores.shape[-1] - 1).to(scores.device)


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Leaves some rows one token each, drawn by the row's own random number: `generate` has no generators by row."""

    def __init__(self, numbers: Tensor, rows: list[int], sampling: Sampling, width: int) -> None:
        """Take uniform numbers in [0, 1), ``[len(rows), max_new_tokens]``, and the length of the padded prompts."""
        self._numbers, self._rows, self._width = numbers, rows, width
        narrowed = [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1.0 else []
        self._warpers = [TemperatureLogitsWarper(sampling.temperature), *narrowed]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self._width
        rows = torch.tensor(self._rows, device=scores.device)
        drawn = scores[rows]
        for warper in self._warpers:
            drawn = warper(input_ids[rows], drawn)
        token = drawn_tokens(drawn, self._numbers[:, step])
        only = torch.full_like(drawn, -torch.inf).scatter(1, token[:, None], 0.0)
        return scores.index_copy(0, rows, only)


@torch.inference_mode()
def _answers(
    loaded: LoadedModel,
    prompts: Sequence[tuple[int, ...]],
    processors: Callable[[list[int], int], list[Any]],
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], object],
) -> list[tuple[int, ...]]:
    """Answer in batches of similar length; ``processors`` is asked with a batch's indices and its padded length."""
    model, pad = loaded.model, loaded.pad_id
    ends = end_tokens(loaded)
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(prompts[i]) for i in chosen)
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + list(prompts[i]) for i in chosen])
        attention = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen])
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=attention.to(model.device),
            max_new_tokens=max_new_tokens,
            # Sampling is a processor that leaves one token, which greedy search then takes.
            do_sample=False,
            logits_processor=LogitsProcessorList(processors(chosen, width)),
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            pad_token_id=pad,
            eos_token_id=sorted(ends) or None,
        )
        for i, row in zip(chosen, output[:, width:].tolist(), strict=True):
            stop = next((at for at, token in enumerate(row) if token in ends), len(row))
            answers[i] = tuple(row[: max(stop, 1)])
        on_batch(len(chosen))
    return answers
