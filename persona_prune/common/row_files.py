"""Rows of CSV and JSON Lines files: read as they are written, or refused with the line on which the row begins.

What readers usually let pass shifts texts from one column to another without a word: a comma too many, a stray quote, a
column or key that occurs twice. All of that is refused here, in every file that anybody gives.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from persona_prune.common.text_files import read_text, unencodable

Row = dict[str, Any]

_DEEPEST = 100  # of lists and objects in one another; far below where Python's own limit begins to depend on the caller
_FIELD = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\n]*))(,|\n|\Z)')
_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|[\[\]{}]|-?Infinity|NaN|[0-9]{4301,}')
_ESCAPED = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


class _UnfitError(ValueError):
    """What JSON allows and this project doesn't."""


def file_rows(path: Path) -> list[tuple[int, Row]]:
    """Return the rows of a CSV file or, whatever else its name ends in, of a JSON Lines file, each with its line.

    Raises:
        ValueError: as `csv_rows` and `jsonl_rows`; or the file is empty or not UTF-8.
    """
    text = read_text(path)
    return csv_rows(path, text) if path.suffix.lower() == ".csv" else jsonl_rows(path, text)


def csv_rows(path: Path, text: str) -> list[tuple[int, Row]]:
    """Return the rows of a CSV text (RFC 4180), by the columns of its first row, each with the line it begins on.

    Blank lines are skipped. A quote belongs around a field, or doubled into a field with quotes around it.

    Raises:
        ValueError: a row has more or fewer fields than there are columns, a column occurs twice, a quote is never
            closed or stands in a field without quotes; the message names file and the line where the row begins.
    """
    columns: list[str] = []
    rows: list[tuple[int, Row]] = []
    for line, fields in _records(path, text):
        if not columns:
            columns = fields
            for name in columns:
                if columns.count(name) > 1:
                    raise ValueError(f"{path}, line {line}: the column {name!r} occurs twice: rename or delete one")
        elif len(fields) != len(columns):
            fix = "put a text with commas into quotes" if len(fields) > len(columns) else "leave empty ones empty"
            counted = f"{len(fields)} fields where the first row has {len(columns)} columns"
            raise ValueError(f"{path}, line {line}: {counted}: {fix}")
        else:
            rows.append((line, dict(zip(columns, fields, strict=True))))
    return rows


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    at, line = 0, 1
    while at < len(text):
        begin, fields, end = at, list[str](), ","
        while end == ",":
            field = _FIELD.match(text, at)
            if field is None:
                raise ValueError(f"{path}, line {line}: invalid CSV ({_quote_fault(text, at)})")
            quoted, plain, end = field.groups()
            fields.append(plain if quoted is None else quoted.replace('""', '"'))
            at = field.end()
        if text[begin:at].strip():
            yield line, fields
        line += text.count("\n", begin, at)


def _quote_fault(text: str, at: int) -> str:
    if text[at] != '"':
        return "a quote in a field without quotes around it: put the field into quotes, and write the quote twice"
    closed = re.compile(r'"[^"]*(?:""[^"]*)*"').match(text, at)
    return "text behind the quote that ends a field" if closed else "a quote is never closed"


def jsonl_rows(path: Path, text: str) -> list[tuple[int, Row]]:
    """Return the objects of a JSON Lines text, each with its line.

    Raises:
        ValueError: as `json_document`, or a line is no object; the message names file and line.
    """
    rows: list[tuple[int, Row]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = json_document(path, line, number)
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
        rows.append((number, row))
    return rows


def json_document(path: Path, text: str, first_line: int = 1) -> Any:
    """Return what a JSON text that begins on ``first_line`` of a file says.

    Raises:
        ValueError: it is no JSON, a key occurs twice in an object, there is a number that JSON does not have (NaN), or
            a text that can't be encoded, or lists and objects lie more than 100 deep in one another; the message names
            file and line.
    """
    try:
        value = json.loads(text, object_pairs_hook=_members, parse_constant=_constant)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ValueError(f"{path}, line {line}: invalid JSON ({error.msg}, column {error.colno})") from None
    except (RecursionError, ValueError):  # integers of thousands of digits are a plain ValueError
        fault = _fault(text)
    else:
        unsure = _ESCAPED.search(text) or (text.count("[") + text.count("{") > _DEEPEST and _too_deep(value))
        fault = _fault(text) if unsure else None
        if fault is None:
            return value
    at, told = fault or (0, "a value that can't be read")
    line = first_line + text.count("\n", 0, at)
    raise ValueError(f"{path}, line {line}: {told}")


def _members(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _UnfitError
    return found


def _constant(_: str) -> float:
    raise _UnfitError


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        nodes = (node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list))
        level = [child for children in nodes for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _fault(text: str) -> tuple[int, str] | None:
    """Return where the first thing stands that JSON allows and `json_document` doesn't, and what it is."""
    open_ones: list[set[str]] = []  # the keys of every list and object around the token
    for token in _TOKEN.finditer(text):
        if token[0] in ("{", "["):
            open_ones.append(set())
            if len(open_ones) > _DEEPEST:
                return token.start(), f"lists and objects more than {_DEEPEST} deep in one another"
        elif token[0] in ("}", "]"):
            open_ones.pop()
        elif token[1] is None:
            number = token[0] if len(token[0]) < 10 else f"a whole number of {len(token[0])} digits"
            return token.start(), f"{number} is no number that can be read"
        else:
            string = str(json.loads(token[1]))
            if told := unencodable(string):
                return token.start(), told
            if token[2] and string in open_ones[-1]:
                return token.start(), f"the key {string!r} occurs twice: rename or delete one"
            if token[2]:
                open_ones[-1].add(string)
    return None


def line_holding(path: Path, wanted: str) -> int | None:
    """Return the first line of a file (of a row, for CSV and JSON Lines) whose texts hold ``wanted``; None for none."""
    if path.suffix.lower() in (".csv", ".jsonl"):
        lines = [(line, json.dumps(row, ensure_ascii=False)) for line, row in file_rows(path)]
    else:
        lines = list(enumerate(read_text(path).split("\n"), start=1))
    return next((line for line, text in lines if wanted in text), None)
