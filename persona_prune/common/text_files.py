"""Text files that users give: reading them, and telling when they changed."""

import csv
import io
import json
from pathlib import Path

from persona_prune.common.cache import atomic


def read_text(path: Path) -> str:
    """Read a UTF-8 text file (byte-order mark allowed); raise ValueError if it is empty or not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    return text


def jsonl_rows(path: Path, text: str) -> list[tuple[int, object]]:
    """Return the objects of a JSON Lines text, each with its line; raise ValueError with file and line."""
    rows: list[tuple[int, object]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line)))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: invalid JSON ({error.msg}, column {error.colno})") from None
    return rows


def csv_rows(path: Path, text: str) -> list[tuple[int, object]]:
    """Return the rows of a CSV text, each with the line it ends on; raise ValueError with file and line."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: invalid CSV ({error})") from None


def directory_stamp(path: str) -> object:
    """Return what changes when the files in a directory do; None where there is no such directory."""
    directory = Path(path).expanduser()
    files = directory.iterdir() if directory.is_dir() else []
    there = [(file.name, file.stat()) for file in files if file.exists()]  # a link may lead nowhere
    return sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in there) or None


def write_text(path: Path, text: str) -> None:
    """Write a file, all or nothing."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
