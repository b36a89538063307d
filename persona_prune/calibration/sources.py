"""Where calibration pairs come from: what the YAML files in ``conf/calibration`` build."""

import logging
from typing import Literal, Protocol

from pydantic.dataclasses import dataclass

from persona_prune.common.validation import STRICT, Positions, PositiveInt
from persona_prune.personas.pair_files import embedded_pairs, read_matching, read_pairs
from persona_prune.personas.pairs import Pair
from persona_prune.personas.persona import Persona
from persona_prune.personas.public_formats import Format
from persona_prune.personas.public_sets import read_questions, shows_opposite
from persona_prune.personas.splits import Split, hold_out, part_of, split_of

log = logging.getLogger(__name__)


class Calibration(Protocol):
    """A source of calibration pairs, with the settings of the pass over them."""

    limit: int | None
    positions: Positions
    batch_size: int
    max_tokens: int
    on_leak: Literal["error", "drop"]

    def check(self, persona: Persona) -> None:
        """Raise ValueError or OSError if the pairs for ``persona`` cannot be read."""

    def pairs(self, persona: Persona) -> tuple[Pair, ...]:
        """Return the pairs, ``matching`` showing ``persona``."""

    def divided(self, persona: Persona) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """Return pairs to fit on and other pairs to choose settings on."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CalibrationPass:
    """The settings of the pass over calibration pairs, whatever their source.

    Attributes:
        limit: use the first so many pairs; None for all.
        positions: which tokens statistics see.
        batch_size: prompts per forward pass.
        max_tokens: longer sequences are cut.
        on_leak: what is done with pairs whose prompts are evaluated, too.
    """

    limit: PositiveInt | None
    positions: Positions
    batch_size: PositiveInt
    max_tokens: PositiveInt
    on_leak: Literal["error", "drop"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EmbeddedCalibration(CalibrationPass):
    """The calibration half of the pairs written for this project."""

    def check(self, persona: Persona) -> None:
        """Raise ValueError if ``persona`` has no embedded pairs."""
        self.pairs(persona)

    def pairs(self, persona: Persona) -> tuple[Pair, ...]:
        """Return the embedded calibration pairs of ``persona``, the first ``limit`` of them."""
        return embedded_pairs(persona, "calibration")[: self.limit]

    def divided(self, persona: Persona) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """Hold a fifth of the pairs out."""
        return hold_out(self.pairs(persona))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PairsFile(CalibrationPass):
    """Calibration pairs from a file of the user's (``calibration=pairs calibration.path=FILE``).

    ``split: calibration`` takes that part of the file only (`split_of`), so that one file can serve for calibration and
    for evaluation. ``contrast: model`` needs matching answers only: what the dense model itself answers to the same
    prompts stands against them (`contrast.against_own_answers`); until it does, ``not_matching`` is empty.
    """

    path: str
    split: Split | None
    contrast: Literal["file", "model"]

    def check(self, persona: Persona) -> None:
        """Raise ValueError or OSError if the file cannot be read as pairs."""
        if self.contrast == "model" and persona.flip:
            raise ValueError("contrast=model has no answers of the other pole: leave persona.flip=false")
        self.pairs(persona)

    def pairs(self, persona: Persona) -> tuple[Pair, ...]:
        """Return the first ``limit`` pairs of the file, oriented towards ``persona``."""
        return persona.orient(part_of(self._read(), self.split, self.path), embedded=False)[: self.limit]

    def divided(self, persona: Persona) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """With ``split: calibration``, settings are chosen on the file's validation part, else on a fifth held out."""
        if self.split != "calibration":
            return hold_out(self.pairs(persona))
        validation = part_of(self._read(), "validation", self.path)
        return self.pairs(persona), persona.orient(validation, embedded=False)

    def _read(self) -> tuple[Pair, ...]:
        return read_pairs(self.path) if self.contrast == "file" else read_matching(self.path)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HubSet(CalibrationPass):
    """Calibration pairs from a public set (``calibration=machine_mindset calibration.name=thinking_feeling``).

    A question gives a pair for each option that is not the persona's; they stay in one part of a split.

    Attributes:
        format: how its rows are read; see the function of that name.
        dataset, revision: hub id, with a branch, tag or commit; null where no hub copy is known.
        name: which part of the set: a file, two poles, ``SCRIPT/ROLE``, a trait.
        path: a file, or a directory with ``<name>.jsonl`` or the layout of the hub dataset, used instead of the hub.
        split: take that part only, by a hash of the prompt (`data.split_of`); null for all.
    """

    format: Format
    dataset: str | None
    revision: str | None
    name: str
    path: str | None
    split: Split | None

    def check(self, persona: Persona) -> None:
        """Raise ValueError or OSError if the set cannot be had or read; fetches its files if they are not cached."""
        self.pairs(persona)
        if shows_opposite(self.name, persona):
            log.warning(
                "calibration: the matching answers of %s show the opposite of %s, so they are turned round; "
                "evaluator.choice takes a pair file as it is (persona.flip=true turns both)",
                self.name,
                persona.name,
            )

    def pairs(self, persona: Persona) -> tuple[Pair, ...]:
        """Return the first ``limit`` pairs, oriented towards ``persona``."""
        return self._pairs(persona, self.split)[: self.limit]

    def divided(self, persona: Persona) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """With ``split: calibration``, settings are chosen on the set's validation part, else on a fifth held out."""
        if self.split != "calibration":
            return hold_out(self.pairs(persona))
        return self.pairs(persona), self._pairs(persona, "validation")

    def _pairs(self, persona: Persona, split: Split | None) -> tuple[Pair, ...]:
        questions = read_questions(self.format, self.dataset, self.revision, self.name, self.path, "calibration.path")
        chosen = [question for question in questions if split is None or split_of(question.prompt) == split]
        if not chosen:
            raise ValueError(f"{self.name}: none of its {len(questions)} questions falls into the {split} split")
        pairs = persona.orient((pair for question in chosen for pair in question.pairs()), embedded=False)
        return tuple(pair.flipped() for pair in pairs) if shows_opposite(self.name, persona) else pairs
