"""Decoding step by step in padded batches; every row has its own settings, random numbers and text.

Rows may leave a batch after any step and batches may be joined, so that an answer is neither held up by longer ones nor
changed by them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from persona_prune.models.generation import drawn_tokens, end_tokens
from persona_prune.models.loaded import LoadedModel

FinishReason = Literal["stop", "length"]

_GREEDY_BELOW = 1e-4  # temperature; logits divided by less overflow


@dataclass(frozen=True)
class Query:
    """What is to be answered, and how.

    Attributes:
        prompt: token ids.
        max_new_tokens: length of the answer at most, in tokens.
        temperature: at least 0; logits are divided by it. Below 1e-4 the likeliest token is taken.
        top_p: in [0, 1]; draw among the likeliest tokens that together have this probability (Holtzman et al. 2020).
        seed: of the answer's own random numbers.
        stop: texts that end the answer; none of them is part of it.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]


class Completion:
    """An answer that grows by one token at a time.

    Attributes:
        query: what it answers.
        tokens: the number of tokens so far, the end token not counted.
        finish_reason: ``stop`` (end token or stop text) or ``length``; None while it grows.
    """

    def __init__(self, query: Query, loaded: LoadedModel) -> None:
        self.query = query
        self.tokens = 0
        self.finish_reason: FinishReason | None = None
        self._ends = end_tokens(loaded)
        self._text = _Text(loaded.tokenizer, query.stop)
        # The same numbers as `generation.sampled_answers` draws: batch and device don't change them.
        generator = torch.Generator().manual_seed(query.seed)
        self._numbers = torch.rand(query.max_new_tokens, generator=generator).tolist()

    @property
    def number(self) -> float:
        """The uniform random number in [0, 1) that the next token is drawn with."""
        return float(self._numbers[self.tokens])

    def take(self, token: int) -> str:
        """Add a token and return the text that is certain by now, which may be none yet."""
        if token in self._ends:
            self.finish_reason = "stop"
            return self._text.rest()
        self.tokens += 1
        piece = self._text.add(token)
        if self._text.stopped:
            self.finish_reason = "stop"
        elif self.tokens == self.query.max_new_tokens:
            self.finish_reason = "length"
            piece += self._text.rest()
            if self._text.stopped:
                self.finish_reason = "stop"
        return piece


class DecodingBatch:
    """Answers that grow together, on one key-value cache; left-padded.

    A cache belongs to the weights it was computed with: between two steps they may be others, during a step not.
    """

    def __init__(self, loaded: LoadedModel, answers: Sequence[Completion]) -> None:
        self.answers = list(answers)
        self._model = loaded.model
        self._cache = DynamicCache(config=loaded.model.config)
        prompts = [answer.query.prompt for answer in answers]
        width = max(len(prompt) for prompt in prompts)
        pad = loaded.tokenizer.pad_token_id
        self._ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=self._model.device)
        attention = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
        self._attention = torch.tensor(attention, device=self._model.device)

    @torch.inference_mode()
    def step(self) -> list[tuple[Completion, str]]:
        """Add one token to every answer; return the answers with their new text and drop those that are finished.

        Raises:
            FloatingPointError: the model's logits are not finite.
        """
        logits = self._forward()
        if not torch.isfinite(logits).all():
            raise FloatingPointError("the model's logits are not finite: serve it in another dtype (model.dtype)")
        answers = self.answers
        settings = [(a.query.temperature, a.query.top_p, a.number) for a in answers]
        temperature, top_p, number = (torch.tensor(values, dtype=torch.float64) for values in zip(*settings))
        tokens = draw(logits, temperature, top_p, number)
        pieces = [(answer, answer.take(token)) for answer, token in zip(answers, tokens.tolist(), strict=True)]
        self._ids = tokens[:, None]
        self._attention = torch.cat([self._attention, torch.ones_like(self._ids)], dim=1)
        self.retain(lambda answer: answer.finish_reason is None)
        return pieces

    @torch.inference_mode()
    def retain(self, wanted: Callable[[Completion], bool]) -> None:
        """Drop the answers that are not ``wanted``, and with them their part of the cache."""
        kept = [i for i, answer in enumerate(self.answers) if wanted(answer)]
        if len(kept) == len(self.answers):
            return
        self.answers = [self.answers[i] for i in kept]
        if not kept:
            return
        index = torch.tensor(kept)  # on the host, which indexes any device: a model's layers may be on several
        self._ids, self._attention = self._ids[index], self._attention[index]
        self._cache.batch_select_indices(index)
        if self._plain and self._cache.get_seq_length():
            padding = int(self._attention.argmax(dim=1).min())
            self._attention = self._attention[:, padding:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[..., padding:, :], layer.values[..., padding:, :]

    @torch.inference_mode()
    def join(self, other: "DecodingBatch") -> bool:
        """Take over the answers of a batch of the same weights, both at least one step old; return whether that worked.

        It doesn't for models with caches other than plain keys and values, such as those with a sliding window.
        """
        if not (self._plain and other._plain):
            return False
        width = max(self._attention.shape[1], other._attention.shape[1])
        both = (self, other)
        self._ids = torch.cat([batch._ids for batch in both])
        self._attention = torch.cat([_pad_left(batch._attention, width, dim=1) for batch in both])
        for mine, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            # The newest token isn't in the cache yet.
            mine.keys = torch.cat([_pad_left(layer.keys, width - 1, dim=2) for layer in (mine, theirs)])
            mine.values = torch.cat([_pad_left(layer.values, width - 1, dim=2) for layer in (mine, theirs)])
        self.answers += other.answers
        other.answers = []
        return True

    @property
    def _plain(self) -> bool:
        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def _forward(self) -> Tensor:
        """Return the logits of the next tokens, float32 ``[rows, vocabulary]``."""
        positions = (self._attention.cumsum(1) - 1).clamp(min=0)[:, -self._ids.shape[1] :]
        output = self._model(
            input_ids=self._ids,
            attention_mask=self._attention,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits


def draw(logits: Tensor, temperature: Tensor, top_p: Tensor, number: Tensor) -> Tensor:
    """Return one token a row, each drawn with the row's own settings and random number (`generation.drawn_tokens`).

    Args:
        logits: float32 ``[rows, vocabulary]``.
        temperature: ``[rows]``; the likeliest token is taken where it is below 1e-4.
        top_p: ``[rows]`` in [0, 1]; at least one token stays.
        number: ``[rows]`` uniform in [0, 1).

    Returns:
        int64 ``[rows]`` on the device of ``logits``.
    """
    tokens = logits.argmax(-1)
    sampled = temperature >= _GREEDY_BELOW
    if not sampled.any():
        return tokens
    rows = sampled.nonzero()[:, 0].to(logits.device)
    scores = logits[rows] / temperature[sampled].to(logits)[:, None]
    share = top_p[sampled].to(logits)
    if (share < 1).any():
        ascending, order = scores.sort(dim=-1)
        unlikely = ascending.softmax(-1).cumsum(-1) <= (1 - share)[:, None]
        unlikely[:, -1] = False
        unlikely[share >= 1] = False
        scores = scores.masked_fill(unlikely.scatter(1, order, unlikely), -torch.inf)
    tokens[rows] = drawn_tokens(scores, number[sampled])
    return tokens


class _Text:
    """The text of growing tokens, released as soon as neither a character nor a stop text can still change it."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._ids: list[int] = []
        self._context = 0  # tokens from here on are decoded, as what a token means may depend on those before it
        self._read = 0  # tokens up to here are text already
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        self._ids.append(token)
        return self._release(self._decoded(final=False))

    def rest(self) -> str:
        piece = self._release(self._decoded(final=True))
        if not self.stopped:
            piece, self._held = piece + self._held, ""
        return piece

    def _decoded(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._context : self._read])
        text = self._decode(self._ids[self._context :])
        # A character of several bytes may be spread over several tokens.
        if len(text) <= len(before) or (text.endswith("\ufffd") and not final):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _release(self, piece: str) -> str:
        text = self._held + piece
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        held = next(
            (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self._stop)), 0
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _pad_left(tensor: Tensor, length: int, *, dim: int) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = length - shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)
