"""What a benchmark found, as lines of a table and as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Ratio

BEGIN, END = "<!-- table: python -m benchmarks --write-table -->", "<!-- end of the table -->"


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        line: which benchmark it is of.
        what: what was measured.
        against: what it was divided by, or how it was measured.
        value: a ratio, or a number of ``unit``.
        at_least: the smallest median that is good enough.
        at_most: the largest median that is.
        unit: of the value; ``x`` for ratios.
        detail: more figures, for the JSON file: seconds, bytes, counts.
    """

    line: str
    what: str
    against: str
    value: Ratio
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        low = self.at_least is None or self.value.median >= self.at_least
        return low and (self.at_most is None or self.value.median <= self.at_most)

    @property
    def target(self) -> str:
        """The target as text."""
        bounds = [("at least", self.at_least), ("at most", self.at_most)]
        return ", ".join(f"{word} {bound:.3g}" for word, bound in bounds if bound is not None)


def text_line(row: Row) -> str:
    """Return a row for the terminal."""
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    return f"  {row.what:<52} {_value(row):>26}  {row.against:<52} {row.target:<16} {verdict}".rstrip()


def markdown(model: str, rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, with the machine below it."""
    head = ["| what | measured | against | target | met |", "|---|---|---|---|---|"]
    words = {True: "yes", False: "no", None: ""}
    body = [f"| {r.what} | {_value(r)} | {r.against} | {r.target} | {words[r.met]} |" for r in rows]
    about = machine()
    foot = f"{model}, {about['dtype_default']}, {about['device']}, {about['threads']} threads, torch {about['torch']}."
    return "\n".join([*head, *body, "", foot])


def machine() -> dict[str, Any]:
    """Return what figures depend on besides the code; nothing that names the machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "dtype_default": "float32 unless it says otherwise",
    }


def write(directory: Path, tables: dict[str, list[Row]], settings: dict[str, Any]) -> Path:
    """Write ``results.json`` and ``results.md``, each whole or not at all; return the first."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine(),
        "settings": settings,
        "models": {
            model: [{**asdict(row), "target": row.target, "met": row.met} for row in rows]
            for model, rows in tables.items()
        },
    }
    _replace(directory / "results.json", json.dumps(content, indent=2) + "\n")
    pages = [markdown(model, rows) for model, rows in tables.items()]
    _replace(directory / "results.md", "\n\n".join(pages) + "\n")
    return directory / "results.json"


def put_between_markers(page: Path, table: str) -> None:
    """Replace what stands between the two markers of a Markdown page.

    Raises:
        ValueError: the page has no such markers.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: no table to replace; it belongs between {BEGIN} and {END}")
    _replace(page, f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


def _value(row: Row) -> str:
    value, unit = row.value, row.unit
    spread = "" if value.low == value.high else f" [{value.low:.3g}, {value.high:.3g}]"
    return f"{value.median:.3g}{spread} {unit}"


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
