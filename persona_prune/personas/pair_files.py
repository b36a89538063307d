"""Pair files: reading them, and refusing leaks between calibration and evaluation."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from persona_prune.common.row_files import Row, file_rows
from persona_prune.personas.pairs import Pair, normalise
from persona_prune.personas.persona import Persona

log = logging.getLogger(__name__)


EMBEDDED = Path(__file__).parent / "embedded"


def embedded_pairs(persona: Persona, split: Literal["calibration", "test", "judge"]) -> tuple[Pair, ...]:
    """Return the embedded pairs of ``persona``; raise ValueError if it has none.

    ``judge`` are those that judges of speech learn from: no mask is calibrated on them, and nothing asks them.
    """
    if persona.pairs is None:
        hint = "calibration=pairs calibration.path=FILE" if split == "calibration" else "evaluator.choice.path=FILE"
        raise ValueError(f"persona {persona.name} has no embedded {split} pairs: give your own with {hint}")
    return persona.orient(read_pairs(EMBEDDED / persona.pairs / f"{split}.jsonl"), embedded=True)


def embedded_prompts(persona: Persona) -> tuple[str, ...]:
    """Return the open prompts that the embedded ``persona`` speaks to; raise ValueError if it has none."""
    if persona.pairs is None:
        raise ValueError(f"persona {persona.name} has no embedded prompts: give evaluator.speech.prompts_path=FILE")
    return read_prompts(EMBEDDED / persona.pairs / "speech.jsonl")


def holds_answers(path: str | Path) -> bool:
    """Return whether a file holds pairs of answers, not prompts alone; told from its first row.

    Raises:
        OSError, ValueError: it can't be read.
    """
    first = next(iter(file_rows(_there(path))), None)
    return first is not None and {"matching", "not_matching"} <= first[1].keys()


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
    candidates = [(line, _pair(path, line, row, sides)) for line, row in file_rows(path)]
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


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Read prompts from a JSONL or CSV file with ``prompt`` (or ``question``); what else is in a row is left alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, or a row has no prompt; the message names file and line.
    """
    path = _there(path)
    prompts = []
    for line, row in file_rows(path):
        prompt = row.get("prompt", row.get("question"))
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"{path}, line {line}: expected an object with 'prompt'")
        prompts.append(prompt)
    return tuple(prompts)


def _there(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}" + (" (a directory)" if path.is_dir() else ""))
    return path


def _pair(path: Path, line: int, row: Row, sides: tuple[str, ...]) -> Pair:
    where = f"{path}, line {line}"
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
