"""Parts of a set of pairs, by a hash of the prompt: the same for equal prompts, whatever the file and the order."""

import functools
import hashlib
import logging
from collections.abc import Sequence
from typing import Literal

from persona_prune.personas.pairs import Pair, normalise, only_words

log = logging.getLogger(__name__)


Split = Literal["calibration", "validation", "test"]
"""Parts of a file, by a hash of the prompt: half, 15% and 35% of it."""


def split_of(prompt: str) -> Split:
    """Return the part that a prompt belongs to: the same for equal prompts, whatever the file and the order."""
    place = _place(prompt)
    return "calibration" if place < 50 else "validation" if place < 65 else "test"


def part_of(pairs: Sequence[Pair], split: Split | None, where: str) -> tuple[Pair, ...]:
    """Return the pairs of one part, or all; of pairs with the same prompt in a part, the first.

    Raises:
        ValueError: no pair of the file ``where`` is in that part.
    """
    return tuple(pairs) if split is None else _part(tuple(pairs), split, where)


@functools.lru_cache(maxsize=16)
def _part(pairs: tuple[Pair, ...], split: Split, where: str) -> tuple[Pair, ...]:
    """Take a part of the same pairs once, so that what is left out is said once."""
    there = [pair for pair in pairs if split_of(pair.prompt) == split]
    if not there:
        raise ValueError(f"{where}: none of its {len(pairs)} pairs falls into the {split} split")
    chosen: dict[str, Pair] = {}
    for pair in there:
        chosen.setdefault(normalise(pair.prompt), pair)
    if again := len(there) - len(chosen):
        log.warning(
            "%s: of %d pairs in the %s split, left out %d with a prompt that others have, too",
            where,
            len(there),
            split,
            again,
        )
    return tuple(chosen.values())


def hold_out(pairs: Sequence[Pair]) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Return four fifths of ``pairs`` and the rest, by a hash of the prompt.

    Raises:
        ValueError: either would be empty.
    """
    ranked = sorted(pairs, key=lambda pair: (_place(pair.prompt), pair.prompt))
    held = {normalise(pair.prompt) for pair in ranked[: max(1, len(ranked) // 5)]}
    fit = tuple(pair for pair in pairs if normalise(pair.prompt) not in held)
    if not fit:
        raise ValueError(f"{len(pairs)} pairs are too few to hold some out to choose settings on")
    return fit, tuple(pair for pair in pairs if normalise(pair.prompt) in held)


def _place(prompt: str) -> int:
    """Return the hash, 0 to 99, of a prompt's words.

    Coarser than `normalise`, so that prompts that differ in punctuation only are in one part, and every prompt in the
    part that it was always in: published figures depend on it. A prompt without a word has its symbols hashed.
    """
    return int(hashlib.sha256((only_words(prompt) or normalise(prompt)).encode()).hexdigest(), 16) % 100
