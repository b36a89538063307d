"""Pair files: reading, splitting into calibration and evaluation, and refusing leaks between the two."""

import csv
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from pydantic.dataclasses import dataclass

from persona_prune.personas import Pair, Persona, normalise
from persona_prune.validation import STRICT, PositiveInt, Positions

log = logging.getLogger(__name__)

PERSONAS_DATA = Path(__file__).parent / "personas_data"
Split = Literal["calibration", "test"]


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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PairsFile:
    """Calibration pairs from a file of the user's (``calibration=pairs calibration.path=FILE``)."""

    path: str
    limit: PositiveInt | None
    positions: Positions
    batch_size: PositiveInt
    max_tokens: PositiveInt
    on_leak: Literal["error", "drop"]

    def check(self, persona: Persona) -> None:
        """Raise ValueError or OSError if the file cannot be read as pairs."""
        self.pairs(persona)

    def pairs(self, persona: Persona) -> tuple[Pair, ...]:
        """Return the first ``limit`` pairs of the file, oriented towards ``persona``."""
        return persona.orient(read_pairs(self.path), embedded=False)[: self.limit]


def embedded_pairs(persona: Persona, split: Split) -> tuple[Pair, ...]:
    """Return the embedded pairs of ``persona``; raise ValueError if it has none."""
    if persona.pairs is None:
        hint = (
            "calibration=pairs calibration.path=FILE"
            if split == "calibration"
            else "evaluator.choice.path=FILE"
        )
        raise ValueError(f"persona {persona.name} has no embedded {split} pairs: give your own with {hint}")
    return persona.orient(read_pairs(PERSONAS_DATA / persona.pairs / f"{split}.jsonl"), embedded=True)


def read_pairs(path: str | Path) -> tuple[Pair, ...]:
    """Read pairs from a JSONL or CSV file with the columns ``prompt`` (or ``question``), ``matching``, ``not_matching``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, or a row is malformed; the message names file and line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no pair file at {path}" + (" (a directory)" if path.is_dir() else ""))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from None
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _jsonl_rows(path, text)
    pairs = tuple(_pair(path, line, row) for line, row in rows)
    if not pairs:
        raise ValueError(f"{path}: no pairs in the file")
    return pairs


def _jsonl_rows(path: Path, text: str) -> list[tuple[int, object]]:
    rows: list[tuple[int, object]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line)))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: invalid JSON ({error.msg}, column {error.colno})"
            ) from None
    return rows


def _csv_rows(path: Path, text: str) -> list[tuple[int, object]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: invalid CSV ({error})") from None


def _pair(path: Path, line: int, row: object) -> Pair:
    where = f"{path}, line {line}"
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object, got {type(row).__name__}")
    fields = {"prompt": row.get("prompt", row.get("question"))}
    fields |= {key: row.get(key) for key in ("matching", "not_matching")}
    for key, value in fields.items():
        if value is None:
            found = ", ".join(str(name) for name in row) or "nothing"
            raise ValueError(f"{where}: no '{key}'; pairs need prompt, matching, not_matching (found {found})")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: '{key}' must be non-empty text, got {value!r}")
    if fields["matching"] == fields["not_matching"]:
        raise ValueError(f"{where}: matching and not_matching are the same text")
    return Pair(**fields)


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
