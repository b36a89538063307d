"""Inventories: statements with a scale and a key, from a JSON or CSV file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persona_prune.common.row_files import csv_rows, json_document
from persona_prune.common.text_files import read_text
from persona_prune.personas.pair_files import EMBEDDED

SIXTEEN_TYPES = EMBEDDED / "questionnaires" / "sixteen_types.json"
"""60 statements written for this project, 15 an axis, 7 or 8 of them keyed to each pole."""

Line = tuple[str, Any]
"""Where a row is in its file, and the row as read."""


@dataclass(frozen=True)
class Item:
    """One statement.

    Attributes:
        text: the statement.
        scale: what it measures, as it appears in names of metrics.
        key: 1 if agreement raises the score of the scale, -1 if it lowers it.
        options: the answers, from least to most agreement: worth 1, 2, ...
    """

    text: str
    scale: str
    key: int
    options: tuple[str, ...]


@dataclass(frozen=True)
class Inventory:
    """Items with equally many options, and what both ends of a scale are called, for scales between two poles."""

    items: tuple[Item, ...]
    poles: Mapping[str, tuple[str, str]]

    @property
    def levels(self) -> int:
        """The number of options of every item."""
        return len(self.items[0].options)

    def scales(self) -> dict[str, list[int]]:
        """Return scale -> positions of its items."""
        found: dict[str, list[int]] = {}
        for position, item in enumerate(self.items):
            found.setdefault(item.scale, []).append(position)
        return found

    def first(self, limit: int | None) -> "Inventory":
        """Return the inventory with the first ``limit`` items of every scale, in their order."""
        kept = {position for positions in self.scales().values() for position in positions[:limit]}
        return Inventory(tuple(item for i, item in enumerate(self.items) if i in kept), self.poles)


def read_inventory(path: str | Path, options: Sequence[str]) -> Inventory:
    """Read an inventory from a CSV file, or a JSON file that holds a list of items or an object with ``items``.

    An item has ``item`` (the statement), ``scale``, ``key`` (1 or -1) and, if it wants other answers than the rest,
    ``options`` from least to most agreement (in CSV separated by ``|``). A JSON object may also have ``options`` for
    all its items, and ``poles``: scale -> what its high and its low end are called.

    Args:
        path: the file.
        options: the answers to items for which the file names none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an inventory; the message names file and row.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no questionnaire at {path}" + (" (a directory)" if path.is_dir() else ""))
    text, poles = read_text(path), {}
    if path.suffix.lower() == ".csv":
        rows: list[Line] = [(f"{path}, line {line}", row) for line, row in csv_rows(path, text)]
    else:
        content = json_document(path, text)
        whole = content if isinstance(content, dict) else {"items": content}
        if not isinstance(whole.get("items"), list):
            raise ValueError(f"{path}: expected a list of items, or an object with 'items'")
        options = _options(str(path), whole.get("options") or list(options))
        poles = _poles(path, whole.get("poles") or {})
        rows = [(f"{path}, item {number}", row) for number, row in enumerate(whole["items"], start=1)]
    items = tuple(_item(where, row, options) for where, row in rows)
    if not items:
        raise ValueError(f"{path}: no items in the file")
    _one_name_a_scale(rows)
    for (where, _), item in zip(rows, items, strict=True):
        if len(item.options) != len(items[0].options):
            raise ValueError(
                f"{where}: {len(item.options)} options where the first item has {len(items[0].options)}: "
                "scores of one questionnaire need one number of options"
            )
    for scale in poles:
        if scale not in {item.scale for item in items}:
            raise ValueError(f"{path}: poles name the scale '{scale}', which no item has")
    return Inventory(items, poles)


def _one_name_a_scale(rows: Sequence[Line]) -> None:
    """Raise ValueError where two scales, such as "E/I" and "E I", would be one in the names of metrics."""
    written: dict[str, str] = {}
    for where, row in rows:
        scale = row["scale"].strip()
        other = written.setdefault(metric_name(scale), scale)
        if other != scale:
            raise ValueError(f"{where}: the scales {other!r} and {scale!r} would both be called {metric_name(scale)!r}")


def _item(where: str, row: Any, options: Sequence[str]) -> Item:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object, got {type(row).__name__}")
    for name in ("item", "scale"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            found = ", ".join(str(column) for column in row) or "nothing"
            raise ValueError(f"{where}: no '{name}'; an item needs item, scale, key (found {found})")
    key = {"1": 1, "+1": 1, "-1": -1}.get(str(row.get("key")).strip())
    if key is None:
        raise ValueError(f"{where}: key must be 1 or -1, got {row.get('key')!r}")
    own = row.get("options")
    answers = options if own is None or own == "" else own.split("|") if isinstance(own, str) else own
    return Item(row["item"].strip(), metric_name(row["scale"]), key, _options(where, answers))


def _options(where: str, options: Any) -> tuple[str, ...]:
    if not isinstance(options, (list, tuple)) or not all(isinstance(o, str) and o.strip() for o in options):
        raise ValueError(f"{where}: options must be a list of texts, from least to most agreement, got {options!r}")
    texts = tuple(option.strip() for option in options)
    if len(texts) < 2 or len({text.casefold() for text in texts}) < len(texts):
        raise ValueError(f"{where}: options must be two or more different texts, got {list(texts)}")
    return texts


def _poles(path: Path, poles: Any) -> dict[str, tuple[str, str]]:
    if not isinstance(poles, dict):
        raise ValueError(f"{path}: poles must map a scale to the names of its two ends, got {poles!r}")
    named = {}
    for scale, ends in poles.items():
        if not isinstance(ends, list) or len(ends) != 2 or not all(isinstance(end, str) and end for end in ends):
            raise ValueError(f"{path}: poles of '{scale}' must be two names, high end first, got {ends!r}")
        if metric_name(scale) in named:
            raise ValueError(f"{path}: poles: two scales would both be called '{metric_name(scale)}'")
        named[metric_name(scale)] = (metric_name(ends[0]), metric_name(ends[1]))
    called = [end for ends in named.values() for end in ends]
    for end in called:
        if called.count(end) > 1:
            raise ValueError(f"{path}: poles: two ends would both be called '{end}': each needs a name of its own")
    return named


def metric_name(text: str) -> str:
    """Return ``text`` as part of a metric's name: anything but letters, digits and ``_ . + -`` becomes ``_``."""
    return re.sub(r"[^\w.+-]+", "_", text.strip())
