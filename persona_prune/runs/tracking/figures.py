"""How figures and items are shown: which way is better, what charts leave out, and items as rows of a table."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

TableValue = str | float | bool | None

_HIGHER = (
    "accuracy|margin|matching_log_prob|neutral_log_prob|neutral_first_word_kept|"
    "persona|expressed|coherent|on_topic|above_dense|fluency|acc|exact_match|f1|distinct"
)
_LOWER = (
    "echo|perplexity|nll|neutral_drift|neutral_first_word_shift|moved_away|degenerate|repetition|loop|non_text|empty|"
    "word_perplexity|byte_perplexity|bits_per_byte"
)
_COSTS = re.compile(r"(time|memory)/|mask/(bytes|bits_bytes|build_s)$")
_BETTER: dict[Literal["max", "min"], re.Pattern[str]] = {
    "max": re.compile(rf"(sampled_)?({_HIGHER})(_|,|$)"),
    "min": re.compile(rf"(sampled_)?({_LOWER})(_|,|$)"),
}


def best(metric: str, arms: Sequence[str]) -> Literal["max", "min"] | None:
    """Return which of several runs' values of ``metric`` is best; None if neither end is.

    Figures of other ``arms`` (``dense/``, ``random/``) are there to compare with, and a p-value says nothing about
    which way: neither is a goal.
    """
    if _COSTS.match(metric):
        return "min"
    if metric.split("/")[0] in arms or metric.endswith("_p"):
        return None
    last = metric.split("/")[-1]
    return next((end for end, pattern in _BETTER.items() if pattern.match(last)), None)


def is_detail(metric: str) -> bool:
    """Tell whether a figure says how sure another one is, so that it needs no chart of its own."""
    return metric.endswith(("_low", "_high", "_p"))


def item_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[TableValue]]]:
    """Return columns and rows for the lines of a ``samples/<evaluator>.jsonl``.

    Values become columns, ``value/<metric>`` for the persona and ``<arm>/<metric>`` for another arm; lists and
    mappings become JSON text, and a column whose cells are of several types becomes text: tables want one type.
    """
    flat = [_cells(row) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    text = {key for key in columns if key == "id" or len({_kind(row.get(key)) for row in flat} - {None}) > 1}
    data = [[_as_text(row.get(key)) if key in text else row.get(key) for key in columns] for row in flat]
    return columns, data


def _cells(row: Mapping[str, Any]) -> dict[str, TableValue]:
    cells: dict[str, TableValue] = {}
    for key, value in row.items():
        if key == "values" or key.endswith("_values"):
            arm = key.removesuffix("_values") if key != "values" else "value"
            cells |= {f"{arm}/{metric}": number for metric, number in (value or {}).items()}
        else:
            cells[key] = value if value is None or isinstance(value, (str, int, float)) else _json(value)
    return cells


def _kind(cell: TableValue) -> str | None:
    if cell is None:
        return None
    return "number" if isinstance(cell, (int, float)) and not isinstance(cell, bool) else type(cell).__name__


def _as_text(cell: TableValue) -> TableValue:
    return cell if cell is None or isinstance(cell, str) else _json(cell)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
