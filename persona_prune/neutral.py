"""Text and prompts that have nothing to do with any persona: what a mask must leave alone, and a check that it does.

None of it is what the capability evaluator reads. A part of it is kept from calibration, to choose settings on.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from persona_prune.data import PERSONAS_DATA, read_prompts, read_text
from persona_prune.generation import greedy_answers
from persona_prune.likelihood import Row, chat_prompt, score, text_rows
from persona_prune.models import LoadedModel, cache_root
from persona_prune.personas import normalise

_WINDOW = 256  # tokens of text that are read together
_VALIDATION_TOKENS = 1024
_VALIDATION_PROMPTS = 32

Progress = Callable[[str, int], Callable[[int], object]]
"""``progress(label, total)`` starts a bar and returns its ``advance(n)``."""


@dataclass(frozen=True)
class Neutral:
    """Neutral material of one model, each a tuple of rows with one branch.

    Attributes:
        text: plain text, for calibration.
        answers: prompts with the dense model's own answers, for calibration.
        validation_text: plain text that calibration does not see.
        validation_answers: prompts with answers that calibration does not see.
    """

    text: tuple[Row, ...]
    answers: tuple[Row, ...]
    validation_text: tuple[Row, ...]
    validation_answers: tuple[Row, ...]

    @property
    def digest(self) -> str:
        """16 hex digits that identify the material."""
        everything = (*self.text, *self.answers, *self.validation_text, *self.validation_answers)
        rows = [[row.prompt, row.branches] for row in everything]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def neutral_material(
    loaded: LoadedModel,
    asked: set[str],
    *,
    text_tokens: int,
    prompts: int,
    answer_tokens: int,
    batch_size: int,
    progress: Progress,
) -> Neutral:
    """Return neutral material; ``loaded`` must be dense, as it answers the prompts (once: the answers are cached).

    Args:
        loaded: the dense model.
        asked: normalised prompts that are evaluated, and so left out.
        text_tokens: of text for calibration.
        prompts: how many prompts for calibration, beside those for validation.
        answer_tokens: length of the answers.
        batch_size: prompts that are answered together.
        progress: for bars.
    """
    text = text_rows(loaded.tokenizer, read_text(PERSONAS_DATA / "neutral" / "generic.txt"), _WINDOW, 1_000_000)
    kept = _VALIDATION_TOKENS // _WINDOW
    candidates = read_prompts(PERSONAS_DATA / "neutral" / "calibration_prompts.jsonl")
    free = [prompt for prompt in candidates if normalise(prompt) not in asked]
    chosen = [*free[:_VALIDATION_PROMPTS], *free[_VALIDATION_PROMPTS:][:prompts]]
    rows = answered(loaded, chosen, answer_tokens, batch_size, progress("neutral answers", len(chosen)))
    return Neutral(
        tuple(text[kept:][: max(1, text_tokens // _WINDOW)]),
        tuple(rows[_VALIDATION_PROMPTS:]),
        tuple(text[:kept]),
        tuple(rows[:_VALIDATION_PROMPTS]),
    )


def answered(
    loaded: LoadedModel,
    prompts: Sequence[str],
    tokens: int,
    batch_size: int,
    on_batch: Callable[[int], object],
) -> list[Row]:
    """Return the prompts with the dense model's greedy answers of up to ``tokens``, generated once and cached."""
    rendered = [chat_prompt(loaded.tokenizer, prompt) for prompt in prompts]
    encoded = [tuple(loaded.tokenizer(text, add_special_tokens=False).input_ids) for text in rendered]
    key = json.dumps(["v2", loaded.fingerprint, loaded.arithmetic, tokens, encoded])
    path = cache_root() / "neutral" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        answers = json.loads(path.read_text())["answers"]
    except (OSError, ValueError, KeyError, TypeError):
        answers = greedy_answers(
            loaded,
            encoded,
            max_new_tokens=tokens,
            batch_size=batch_size,
            on_batch=on_batch,
        )
        _write(path, {"answers": answers})
    return [Row(prompt, (tuple(answer),)) for prompt, answer in zip(encoded, answers, strict=True)]


class Guard:
    """Measures what a change of the model costs against the dense one, on the validation part of neutral material.

    Each cost is measured when it is asked for: where one of them is too high already, the others need not be.
    """

    def __init__(self, loaded: LoadedModel, neutral: Neutral, batch_size: int, own: Sequence[Row] = ()) -> None:
        """Measure the dense model, which ``loaded`` must be now; ``own`` are a persona's answers, one branch a row.

        What the dense model makes of the neutral material is measured once and cached.
        """
        self._loaded, self._neutral, self._batch_size, self._own = loaded, neutral, batch_size, own
        key = json.dumps(["v1", loaded.fingerprint, loaded.arithmetic, neutral.digest, batch_size])
        path = cache_root() / "neutral" / f"guard-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
        try:
            self._dense_text, self._dense_answers = (float(x) for x in json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            self._dense_text, self._dense_answers = self._text(), self._mean(neutral.validation_answers)
            _write(path, [self._dense_text, self._dense_answers])
        self._dense_own = self._mean(own)

    def perplexity_ratio(self) -> float:
        """Perplexity on text of the model as it stands, over the dense model's."""
        return math.exp(min(self._dense_text - self._text(), 690.0))

    def neutral_drift(self) -> float:
        """Nats per token that the dense model's own answers to neutral prompts have lost."""
        return self._dense_answers - self._mean(self._neutral.validation_answers)

    def own_loss(self) -> float:
        """Nats per token that the persona's own answers have lost; 0 without any."""
        return self._dense_own - self._mean(self._own)

    def _text(self) -> float:
        """Return the log-probability per token of the text."""
        model, pad = self._loaded.model, self._loaded.tokenizer.pad_token_id
        text = score(model, self._neutral.validation_text, pad_id=pad, batch_size=max(1, self._batch_size // 4))
        return sum(only.log_probs.double().sum().item() for (only,) in text) / sum(
            len(only.log_probs) for (only,) in text
        )

    def _mean(self, rows: Sequence[Row]) -> float:
        """Return the log-probability per token of answers, as a mean over answers."""
        if not rows:
            return 0.0
        scored = score(
            self._loaded.model, rows, pad_id=self._loaded.tokenizer.pad_token_id, batch_size=self._batch_size
        )
        return sum(only.log_probs.double().mean().item() for (only,) in scored) / len(rows)


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)
