"""Personas and their pairs of answers: plain data, no model and no file access."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic.dataclasses import dataclass

from persona_prune.validation import STRICT, Name

Pole = Literal["matching", "not_matching"]


@dataclass(frozen=True, config=STRICT)
class Pair:
    """One prompt answered by both poles: a target example and a contrast example at once."""

    prompt: str
    matching: str
    not_matching: str

    def flipped(self) -> "Pair":
        """Return the pair with its poles swapped."""
        return Pair(prompt=self.prompt, matching=self.not_matching, not_matching=self.matching)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Persona:
    """Who the model is to become, and where examples of it come from.

    Attributes:
        name: the persona's name, as in ``persona=<name>``.
        description: one sentence for reports.
        opposite: name of the contrasting persona, or null.
        system_prompt: how a prompt would ask for this persona (used by the prompt baseline only).
        pairs: name of the embedded pair set under ``personas_data/``, or null when the user brings the pairs.
        pole: which side of the *embedded* set shows this persona.
        flip: swap the poles of every pair file, embedded or the user's, so that its other side is the target.
    """

    name: Name
    description: str
    opposite: str | None
    system_prompt: str | None
    pairs: Name | None
    pole: Pole
    flip: bool

    def orient(self, pairs: Iterable[Pair], *, embedded: bool) -> tuple[Pair, ...]:
        """Return ``pairs`` so that ``matching`` shows this persona."""
        swap = self.flip != (embedded and self.pole == "not_matching")
        return tuple(pair.flipped() if swap else pair for pair in pairs)


def normalise(prompt: str) -> str:
    """Return ``prompt`` without case, punctuation and spacing, for comparing prompts."""
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    return re.sub(r"[\W_]+", " ", folded).strip()


def content_hash(pairs: Sequence[Pair]) -> str:
    """Return 16 hex digits that identify ``pairs``, whatever their order."""
    rows = sorted(json.dumps([p.prompt, p.matching, p.not_matching]) for p in pairs)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
