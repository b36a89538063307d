"""Text and prompts that have nothing to do with any persona: what a mask must leave alone, and a check that it does.

None of it is what the capability evaluator reads. A part of it is kept from calibration, to choose settings on.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from persona_prune.common.cache import cache_path, store_json
from persona_prune.common.progress import Progress
from persona_prune.common.text_files import read_text
from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.generation import greedy_answers
from persona_prune.models.likelihood import Answer, score
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.rows import Row, text_rows
from persona_prune.personas.pair_files import EMBEDDED, read_prompts
from persona_prune.personas.pairs import normalise

_WINDOW = 256  # tokens of text that are read together
_VALIDATION_TOKENS = 1024
_VALIDATION_PROMPTS = 64


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
    text = text_rows(loaded.tokenizer, read_text(EMBEDDED / "neutral" / "generic.txt"), _WINDOW, 1_000_000)
    kept = _VALIDATION_TOKENS // _WINDOW
    candidates = read_prompts(EMBEDDED / "neutral" / "calibration_prompts.jsonl")
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
    path = cache_path("neutral", ["v2", loaded.fingerprint, loaded.arithmetic, tokens, encoded], ".json")
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
        store_json(path, {"answers": answers})
    return [Row(prompt, (tuple(answer),)) for prompt, answer in zip(encoded, answers, strict=True)]


@dataclass(frozen=True)
class NeutralCost:
    """What the answers to neutral prompts tell of a change.

    Attributes:
        drift: nats per token that the dense model's own answers have lost, over all tokens alike: a mean over answers
            would be that of the shortest ones, of which a single "No." can lose five nats a token.
        first_token_shift: largest change, over tokens, of the share of answers that would begin with that token.
    """

    drift: float
    first_token_shift: float


class Guard:
    """Measures what a change of the model costs against the dense one, on the validation part of neutral material.

    Each cost is measured when it is asked for: where one of them is too high already, the others need not be.
    """

    def __init__(self, loaded: LoadedModel, neutral: Neutral, batch_size: int) -> None:
        """Measure the dense model, which ``loaded`` must be now, once: the figures are cached."""
        self._loaded, self._neutral, self._batch_size = loaded, neutral, batch_size
        key = ["v3", loaded.fingerprint, loaded.arithmetic, neutral.digest, batch_size]
        path = cache_path("guard", key, ".json")
        try:
            text, log_prob, tokens = json.loads(path.read_text())
            self._dense_text, self._dense_answers = float(text), float(log_prob)
            self._dense_firsts = [int(token) for token in tokens]
        except (OSError, ValueError, TypeError):
            answers = self._answers()
            self._dense_text, self._dense_answers = self._text(), _per_token(answers)
            self._dense_firsts = _firsts(answers)
            store_json(path, [self._dense_text, self._dense_answers, self._dense_firsts])

    def perplexity_ratio(self) -> float:
        """Perplexity on text of the model as it stands, over the dense model's."""
        return math.exp(min(self._dense_text - self._text(), 690.0))

    def on_prompts(self) -> NeutralCost:
        """Return what the model as it stands makes of the dense model's own answers to neutral prompts."""
        answers = self._answers()
        now, before = Counter(_firsts(answers)), Counter(self._dense_firsts)
        shift = max((abs(now[token] - before[token]) for token in now | before), default=0) / max(1, len(answers))
        return NeutralCost(self._dense_answers - _per_token(answers), shift)

    def _text(self) -> float:
        """Return the log-probability per token of the text."""
        text = score(self._loaded, self._neutral.validation_text, max(1, self._batch_size // 4))
        return _per_token(text)

    def _answers(self) -> list[list[Answer]]:
        return score(self._loaded, self._neutral.validation_answers, self._batch_size)


def _per_token(rows: Sequence[Sequence[Answer]]) -> float:
    """Return the log-probability per token of rows of one branch, over all their tokens alike."""
    tokens = torch.cat([only.log_probs.double().cpu() for (only,) in rows])
    return tokens.mean().item()


def _firsts(answers: Sequence[Sequence[Answer]]) -> list[int]:
    """Return the token that the model itself would begin every answer with."""
    return [int(only.likeliest[0]) for (only,) in answers]


def mean_log_prob(answers: Sequence[Sequence[Answer]]) -> float:
    """Return the log-probability per token of the first branch of every row, as a mean over rows; 0 without rows."""
    return sum(first.log_probs.double().mean().item() for first, *_ in answers) / max(1, len(answers))
