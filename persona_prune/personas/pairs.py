"""Pairs of answers, and questions: plain data, no model and no file access."""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic.dataclasses import dataclass

from persona_prune.common.validation import STRICT

Pole = Literal["matching", "not_matching"]

_SPELLINGS = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f«»", '"')
    | dict.fromkeys("\u200b\ufeff", " ")
)
_BEFORE = "\"'¿¡"
_AFTER = "\"'.,;:!?…‽。、،؛؟।॥"


@dataclass(frozen=True, config=STRICT)
class Pair:
    """One prompt answered by both poles: a target example and a contrast example at once."""

    prompt: str
    matching: str
    not_matching: str

    def flipped(self) -> "Pair":
        """Return the pair with its poles swapped."""
        return Pair(prompt=self.prompt, matching=self.not_matching, not_matching=self.matching)


@dataclass(frozen=True, config=STRICT)
class Question:
    """A prompt with two or more options, one of which is the persona's.

    Attributes:
        prompt: what is asked.
        options: the texts to choose from.
        answer: index of the persona's option.
    """

    prompt: str
    options: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if len(self.options) < 2:
            raise ValueError(f"a question needs two options or more, got {len(self.options)}")
        if not 0 <= self.answer < len(self.options):
            raise ValueError(f"answer must be an index into the {len(self.options)} options, got {self.answer}")

    def pairs(self) -> "tuple[Pair, ...]":
        """Return the persona's option against each of the others."""
        others = (option for number, option in enumerate(self.options) if number != self.answer)
        return tuple(Pair(self.prompt, self.options[self.answer], other) for other in others)


def normalise(prompt: str) -> str:
    """Return ``prompt`` in the form in which prompts are compared: equal forms are the same prompt.

    Case, spacing, Unicode form (NFKC) and the shape of quotes don't count; nor does the punctuation of sentences around
    a word: ``. , ; : ! ?`` and the like behind it, and quotes on either side. So "How are you?" is "how are you". All
    other symbols count, and punctuation inside a word does: "C" is not "C++", "2 + 2" not "2 - 2", "3.5" not "35", and
    one emoji is not another. A prompt of nothing but punctuation is itself.
    """
    folded = _folded(_folded(prompt.translate(_SPELLINGS)))
    words = folded.split()
    while words and not words[-1].strip(_BEFORE + _AFTER):
        words.pop()  # French puts a space before its question mark
    return " ".join(word.lstrip(_BEFORE).rstrip(_AFTER) or word for word in words) or " ".join(folded.split())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def only_words(text: str) -> str:
    """Return the letters and digits of ``text``, without case, and one space for all that stands between them.

    Coarser than `normalise`: "C++" is "c", and nothing is left of an emoji.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Vowel signs and the like are marks (category M), and as much a part of a word as its letters.
    kept = (char if char.isalnum() or unicodedata.category(char)[0] == "M" else " " for char in folded)
    return " ".join("".join(kept).split())


def pole_free(pairs: Sequence[Pair]) -> tuple[tuple[Pair, ...], bool]:
    """Return the same for ``pairs`` and for all of them flipped: one of the two, and whether it is the flipped one."""
    own, flipped = tuple(pairs), tuple(pair.flipped() for pair in pairs)
    turned = content_hash(flipped) < content_hash(own)
    return (flipped if turned else own), turned


def prompt_hashes(prompts: Iterable[str]) -> set[str]:
    """Return 12 hex digits for every prompt, the same for prompts that are the same to `normalise`."""
    return {hashlib.sha256(normalise(prompt).encode()).hexdigest()[:12] for prompt in prompts}


def earlier_prompt_hashes(prompts: Iterable[str]) -> set[str]:
    """Return the 10 hex digits by which earlier persona files knew prompts: of their `only_words`."""
    return {hashlib.sha256(only_words(prompt).encode()).hexdigest()[:10] for prompt in prompts}


def content_hash(pairs: Sequence[Pair]) -> str:
    """Return 16 hex digits that identify ``pairs``, whatever their order."""
    rows = sorted(json.dumps([p.prompt, p.matching, p.not_matching]) for p in pairs)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def oriented(pairs: Sequence[Pair], label: str) -> tuple[Pair, ...]:
    """Return the pairs as they are, or towards the opposite, or with labels that say nothing about the persona.

    For ``generic`` half of the pairs are turned round, every other one in the order of a hash, so that neither pole is
    the target more often, and both have the same generic mask.
    """
    if label == "own":
        return tuple(pairs)
    if label == "opposite":
        return tuple(pair.flipped() for pair in pairs)
    either, _ = pole_free(pairs)
    turned = set(sorted(range(len(either)), key=lambda i: content_hash(either[i : i + 1]))[1::2])
    return tuple(pair.flipped() if i in turned else pair for i, pair in enumerate(either))
