"""Contrast for personas that come with matching answers only: what the dense model itself would have said."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from persona_prune.calibration.neutral import answered
from persona_prune.models.chat_text import chat_prompt, encode_answer
from persona_prune.models.control_tokens import without_control_tokens
from persona_prune.models.loaded import LoadedModel
from persona_prune.personas.pairs import Pair

log = logging.getLogger(__name__)

_MOST_TOKENS = 128


def against_own_answers(
    loaded: LoadedModel, pairs: Sequence[Pair], batch_size: int, progress: Callable[[str, int], Callable[[int], object]]
) -> tuple[Pair, ...]:
    """Return ``pairs`` with the model's greedy answer wherever ``not_matching`` is empty; the others as they are.

    Answers are as long as the longest matching one, 128 tokens at most, generated once for a model and cached. Prompts
    that the model answers with nothing, or with the matching answer, are left out with a warning.

    Args:
        loaded: the dense model.
        pairs: pairs, some of them without a ``not_matching`` answer.
        batch_size: prompts that are answered together.
        progress: for bars.

    Raises:
        ValueError: none is left.
    """
    open_ones = [pair for pair in pairs if not pair.not_matching]
    if not open_ones:
        return tuple(pairs)
    tokenizer = loaded.tokenizer
    lengths = [len(encode_answer(tokenizer, chat_prompt(tokenizer, p.prompt), p.matching)[1]) for p in open_ones]
    bar = progress("contrast answers", len(open_ones))
    rows = answered(loaded, [pair.prompt for pair in open_ones], min(max(lengths), _MOST_TOKENS), batch_size, bar)
    decoded = [str(tokenizer.decode(row.branches[0], skip_special_tokens=True)) for row in rows]
    texts = iter([without_control_tokens(tokenizer, text).strip() for text in decoded])
    completed = [pair if pair.not_matching else replace(pair, not_matching=next(texts)) for pair in pairs]
    kept = tuple(pair for pair in completed if pair.not_matching and pair.not_matching != pair.matching.strip())
    if not kept:
        raise ValueError("the model answers none of the calibration prompts: give not_matching answers of your own")
    if len(kept) < len(pairs):
        log.warning("left out %d prompts that the model answers with nothing or as the persona", len(pairs) - len(kept))
    return kept
