"""Numbers that are none, in JSON, which knows neither NaN nor infinity.

A figure is null where it could not be computed. Values of items are written as texts, as null says there that a metric
does not apply.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dump_figures(figures: Mapping[str, Any]) -> str:
    """Return JSON of a flat mapping, with null for numbers that are not finite."""
    content = {key: None if _is_none(value) else value for key, value in figures.items()}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def load_figures(text: str) -> dict[str, Any]:
    """Return what `dump_figures`, or an earlier version, wrote: NaN where there is null.

    Raises:
        ValueError: it is no JSON, or no mapping.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a mapping")
    return {key: math.nan if value is None else value for key, value in content.items()}


def dump_item(item: Mapping[str, Any]) -> str:
    """Return one line of JSON, with the names of numbers that are not finite."""
    return json.dumps(_named(item), ensure_ascii=False, allow_nan=False)


def load_item(line: str) -> Any:
    """Return what `dump_item` wrote, values as numbers again; raise ValueError if it is no JSON."""
    item = json.loads(line)
    if not isinstance(item, dict):
        return item
    for key, values in item.items():
        if (key == "values" or key.endswith("_values")) and isinstance(values, dict):
            item[key] = {
                name: _NAMES.get(value, value) if isinstance(value, str) else value for name, value in values.items()
            }
    return item


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _named(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_named(part) for part in value]
    if _is_none(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _is_none(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
