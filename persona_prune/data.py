"""Pair files: reading, splitting into calibration and evaluation, and refusing leaks between the two."""

import functools
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from pydantic.dataclasses import dataclass

from persona_prune.personas import Pair, Persona, normalise
from persona_prune.text_files import csv_rows, jsonl_rows, read_text
from persona_prune.validation import STRICT, Positions, PositiveInt

log = logging.getLogger(__name__)

PERSONAS_DATA = Path(__file__).parent / "personas_data"
Split = Literal["calibration", "validation", "test"]
"""Parts of a file, by a hash of the prompt: half, 15% and 35% of it."""


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
class EmbeddedCalibration:
    """The calibration half of the pairs written for this project."""

    limit: PositiveInt | None
    positions: Positions
    batch_size: PositiveInt
    max_tokens: PositiveInt
    on_leak: Literal["error", "drop"]

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
class PairsFile:
    """Calibration pairs from a file of the user's (``calibration=pairs calibration.path=FILE``).

    ``split: calibration`` takes that part of the file only (`split_of`), so that one file can serve for calibration and
    for evaluation. ``contrast: model`` needs matching answers only: what the dense model itself answers to the same
    prompts stands against them (`contrast.against_own_answers`); until it does, ``not_matching`` is empty.
    """

    path: str
    split: Split | None
    contrast: Literal["file", "model"]
    limit: PositiveInt | None
    positions: Positions
    batch_size: PositiveInt
    max_tokens: PositiveInt
    on_leak: Literal["error", "drop"]

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
    return int(hashlib.sha256(normalise(prompt).encode()).hexdigest(), 16) % 100


def embedded_pairs(persona: Persona, split: Literal["calibration", "test"]) -> tuple[Pair, ...]:
    """Return the embedded pairs of ``persona``; raise ValueError if it has none."""
    if persona.pairs is None:
        hint = "calibration=pairs calibration.path=FILE" if split == "calibration" else "evaluator.choice.path=FILE"
        raise ValueError(f"persona {persona.name} has no embedded {split} pairs: give your own with {hint}")
    return persona.orient(read_pairs(PERSONAS_DATA / persona.pairs / f"{split}.jsonl"), embedded=True)


def read_pairs(path: str | Path) -> tuple[Pair, ...]:
    """Read pairs from a JSONL or CSV file with ``prompt`` (or ``question``), ``matching``, ``not_matching``.

    Rows that ask nothing or choose between nothing (an empty text, or the same answer twice) are left out, with a
    warning: public sets have a few.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, or a row is malformed; the message names file and line.
    """
    return _read(path, ("matching", "not_matching"))


def read_matching(path: str | Path) -> tuple[Pair, ...]:
    """Read prompts with matching answers only, from the same kind of file; ``not_matching`` is empty in all pairs.

    Raises:
        FileNotFoundError, ValueError: as `read_pairs`.
    """
    return _read(path, ("matching",))


def _read(path: str | Path, sides: tuple[str, ...]) -> tuple[Pair, ...]:
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no pair file at {path}" + (" (a directory)" if path.is_dir() else ""))
    changed = path.stat()
    return _read_pairs(path, sides, changed.st_mtime_ns, changed.st_size)


@functools.lru_cache(maxsize=16)
def _read_pairs(path: Path, sides: tuple[str, ...], modified: int, size: int) -> tuple[Pair, ...]:
    """Read a file once while it is unchanged: checks and stages ask for it several times."""
    text = read_text(path)
    rows = csv_rows(path, text) if path.suffix.lower() == ".csv" else jsonl_rows(path, text)
    candidates = [(line, _pair(path, line, row, sides)) for line, row in rows]
    useless = [line for line, pair in candidates if _is_useless(pair, sides)]
    if useless:
        log.warning(
            "%s: left out %d rows without two answers to a prompt, the first on line %d",
            path,
            len(useless),
            useless[0],
        )
    pairs = tuple(pair for _, pair in candidates if not _is_useless(pair, sides))
    if not pairs:
        raise ValueError(f"{path}: no pairs in the file")
    return pairs


def _is_useless(pair: Pair, sides: tuple[str, ...]) -> bool:
    texts = [pair.prompt.strip(), *(getattr(pair, side).strip() for side in sides)]
    return not all(texts) or len(set(texts[1:])) < len(sides)


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read a JSONL file of objects with ``prompt``; raise ValueError with file and line if it is not one."""
    prompts = []
    for line, row in jsonl_rows(path, read_text(path)):
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise ValueError(f"{path}, line {line}: expected an object with 'prompt'")
        prompts.append(row["prompt"])
    return tuple(prompts)


def _pair(path: Path, line: int, row: object, sides: tuple[str, ...]) -> Pair:
    where = f"{path}, line {line}"
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object, got {type(row).__name__}")
    fields = {"prompt": row.get("prompt", row.get("question"))}
    fields |= {side: row.get(side) for side in sides}
    for key, value in fields.items():
        if value is None:
            found = ", ".join(str(name) for name, text in row.items() if text is not None) or "nothing"
            need = f"pairs need prompt, {', '.join(sides)}"
            raise ValueError(f"{where}: no '{key}'; {need} (found {found})")
        if not isinstance(value, str):
            raise ValueError(f"{where}: '{key}' must be text, got {value!r}")
    return Pair(**{"not_matching": "", **{key: str(value) for key, value in fields.items()}})


def without_leaks(
    calibration: Sequence[Pair], evaluated: set[str], on_leak: Literal["error", "drop"]
) -> tuple[Pair, ...]:
    """Return the calibration pairs whose prompts are not among the ``evaluated`` (normalised) prompts.

    Raises:
        ValueError: a prompt is in both and ``on_leak`` is ``error``, or nothing is left after dropping.
    """
    kept = tuple(pair for pair in calibration if normalise(pair.prompt) not in evaluated)
    leaked = [pair.prompt for pair in calibration if normalise(pair.prompt) in evaluated]
    if not leaked:
        return kept
    share = f"{len(leaked)} of {len(calibration)} calibration prompts are also evaluated, such as {leaked[0][:60]!r}"
    if on_leak == "error":
        raise ValueError(f"{share}: split the files, or drop those pairs with calibration.on_leak=drop")
    if not kept:
        raise ValueError(f"{share}: none would be left to calibrate on")
    log.warning("%s: left out of calibration", share)
    return kept
