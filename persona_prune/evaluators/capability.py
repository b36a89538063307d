"""What the mask costs: perplexity on held-out text, and drift on prompts that have nothing to do with the persona."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from persona_prune.common.progress import Progress
from persona_prune.common.text_files import read_text
from persona_prune.common.validation import STRICT, PositiveInt
from persona_prune.evaluators.base import AtOnce
from persona_prune.evaluators.results import EvalResult
from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.generation import greedy_answers
from persona_prune.models.likelihood import score
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.rows import Row, text_rows
from persona_prune.personas.pair_files import EMBEDDED, read_prompts
from persona_prune.personas.pairs import normalise
from persona_prune.personas.persona import AnyPersona

_FIRST_WORD_TOKENS = 6


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Capability(AtOnce):
    """Perplexity and neutral drift.

    ``perplexity`` is over windows of held-out text, before which nothing is put: that of a baseline that speaks through
    the prompt is the dense model's. ``perplexity_ratio`` is masked / dense. ``neutral_drift`` is the loss of
    log-probability (nats per token, dense minus masked, mean over prompts) of the dense model's own greedy answers to
    neutral prompts: perplexity misses a model that answers everything with "No".
    ``neutral_first_word_kept`` is the share of answers that keep their first word; ``neutral_first_word_shift`` is the
    largest change, over words, of the share of answers that begin with that word.

    Attributes:
        text_path: a text file, or null for the embedded text.
        window: tokens per window; each begins with the tokenizer's BOS token, or else its first token is not predicted.
        max_text_tokens: use the first so many tokens of the text.
        neutral_path: JSONL with ``prompt``, or null for the 64 embedded prompts.
        answer_tokens: length of the dense model's answers.
        batch_size: prompts per batch.
    """

    measures_alignment: ClassVar[bool] = False

    text_path: str | None
    window: PositiveInt
    max_text_tokens: PositiveInt
    neutral_path: str | None
    answer_tokens: PositiveInt
    batch_size: PositiveInt

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"window must be at least 2 tokens, got {self.window}")

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError or OSError if the text or the prompts cannot be read."""
        self._text()
        self._neutral_prompts()

    def prompts(self, persona: AnyPersona) -> set[str]:
        """Return the normalised neutral prompts."""
        return {normalise(prompt) for prompt in self._neutral_prompts()}

    def identity(self, persona: AnyPersona) -> object:
        """Return settings, text and prompts; the persona does not matter."""
        settings = [self.window, self.max_text_tokens, self.answer_tokens, self.batch_size]
        return [settings, self._text(), self._neutral_prompts()]

    def evaluate(
        self, loaded: LoadedModel, persona: AnyPersona, dense: EvalResult | None, progress: Progress
    ) -> EvalResult:
        """Measure the model; with ``dense``, also its ratio and drift against the dense model."""
        windows = self._windows(loaded, progress)
        dense_answers = None if dense is None else [s for s in dense.samples if "answer_ids" in s]
        neutral = self._neutral(loaded, dense_answers, progress)
        nll = [sample["values"]["nll"] for sample in windows]
        weights = [sample["tokens"] for sample in windows]
        mean_nll = sum(n * w for n, w in zip(nll, weights, strict=True)) / sum(weights)
        metrics = {"perplexity": _exp(mean_nll)}
        if dense is not None:
            metrics["perplexity_ratio"] = _exp(mean_nll - math.log(dense.metrics["perplexity"]))
            metrics["neutral_first_word_shift"] = _shift(
                [sample["first_word"] for sample in neutral],
                [sample["first_word"] for sample in dense_answers or []],
            )
        return EvalResult([*windows, *neutral], metrics)

    def _windows(self, loaded: LoadedModel, progress: Progress) -> list[dict[str, Any]]:
        tokenizer = loaded.tokenizer
        rows = text_rows(tokenizer, self._text(), self.window, self.max_text_tokens)
        if not rows:
            raise ValueError("capability.text_path: the text has fewer than two tokens")
        # As many tokens at once as the neutral prompts would be, to keep the logits of a large vocabulary in bounds.
        per_batch = max(1, self.batch_size * 64 // self.window)
        answers = score(loaded, rows, per_batch, progress("perplexity", len(rows)))
        return [
            {
                "id": f"text-{i}",
                "tokens": len(row.branches[0]),
                "values": {"nll": -answer.log_probs.double().mean().item()},
            }
            for i, (row, (answer,)) in enumerate(zip(rows, answers, strict=True))
        ]

    def _neutral(
        self, loaded: LoadedModel, dense_answers: Sequence[Mapping[str, Any]] | None, progress: Progress
    ) -> list[dict[str, Any]]:
        """Return one sample a prompt; for the dense model its answers, for a masked one the drift on those answers."""
        tokenizer = loaded.tokenizer
        prompts = self._neutral_prompts()
        rendered = [chat_prompt(tokenizer, prompt, loaded.before(prompt)) for prompt in prompts]
        encoded = [tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in rendered]
        length = self.answer_tokens if dense_answers is None else min(_FIRST_WORD_TOKENS, self.answer_tokens)
        # One token a step: four times the rows cost little more.
        generated = greedy_answers(
            loaded,
            encoded,
            max_new_tokens=length,
            batch_size=4 * self.batch_size,
            on_batch=progress("neutral answers", len(prompts)),
        )
        answers = generated if dense_answers is None else [tuple(s["answer_ids"]) for s in dense_answers]
        rows = [Row(prompt, (answer,)) for prompt, answer in zip(encoded, answers, strict=True)]
        scored = score(loaded, rows, self.batch_size, progress("neutral drift", len(rows)))
        samples = []
        for i, (prompt, answer, first_tokens, (likelihood,)) in enumerate(
            zip(prompts, answers, generated, scored, strict=True)
        ):
            log_prob = likelihood.log_probs.double().mean().item()
            first_word = _first_word(tokenizer.decode(first_tokens[:_FIRST_WORD_TOKENS], skip_special_tokens=True))
            sample = {
                "id": f"neutral-{i}",
                "prompt": prompt,
                "answer": tokenizer.decode(answer, skip_special_tokens=True),
                "answer_ids": list(answer),
                "first_word": first_word,
                "values": {"neutral_log_prob": log_prob},
            }
            if dense_answers is not None:
                reference = dense_answers[i]
                sample["values"] |= {
                    "neutral_drift": reference["values"]["neutral_log_prob"] - log_prob,
                    "neutral_first_word_kept": float(first_word == reference["first_word"]),
                }
            samples.append(sample)
        return samples

    def _text(self) -> str:
        path = _file(self.text_path, EMBEDDED / "neutral" / "heldout.txt", "capability.text_path")
        return read_text(path)

    def _neutral_prompts(self) -> tuple[str, ...]:
        path = _file(self.neutral_path, EMBEDDED / "neutral" / "heldout_prompts.jsonl", "capability.neutral_path")
        return read_prompts(path)


def _first_word(text: str) -> str:
    match = re.search(r"\w[\w'\u2019-]*", text)
    return match[0].casefold() if match else ""


def _shift(words: Sequence[str], dense_words: Sequence[str]) -> float:
    now, before = Counter(words), Counter(dense_words)
    return max(abs(now[w] / len(words) - before[w] / len(dense_words)) for w in now | before)


def _exp(value: float) -> float:
    """``exp`` that stays finite: a destroyed model's perplexity is reported as 1e300, not as infinity."""
    return math.exp(min(value, 690.0))


def _file(path: str | None, embedded: Path, key: str) -> Path:
    chosen = embedded if path is None else Path(path).expanduser()
    if not chosen.is_file():
        raise FileNotFoundError(f"evaluator.{key}: no file at {chosen}")
    return chosen
