"""The figures of many runs as files for other programs: CSV, and LaTeX tables."""

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from persona_prune.report.figures import Column, figure
from persona_prune.report.run_settings import settings, text
from persona_prune.report.traits import Heat
from persona_prune.saved.finished_runs import Run

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def runs_csv(
    runs: Sequence[Run],
    names: Sequence[str],
    keys: Sequence[str],
    adjusted: Sequence[Mapping[str, float]],
    output: Path,
) -> str:
    """Return one line a run: name, path from ``output``, the settings ``keys``, every metric; empty where it has none.

    Numbers are written in full, so that they read back as those of ``metrics.json``.
    """
    all_metrics = [{**run.metrics, **own} for run, own in zip(runs, adjusted)]
    metrics = list(dict.fromkeys(key for one in all_metrics for key in one))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "path", *keys, *metrics])
    for run, name, one in zip(runs, names, all_metrics):
        own = settings(run)
        values = [text(own[key]) if key in own else "" for key in keys]
        path = Path(os.path.relpath(run.path, output)).as_posix()
        writer.writerow([name, path, *values, *(repr(one[key]) if key in one else "" for key in metrics)])
    return buffer.getvalue()


def tables_tex(
    runs: Sequence[Run],
    names: Sequence[str],
    columns: Sequence[Column],
    adjusted: Sequence[Mapping[str, float]],
    heat: Heat | None,
) -> str:
    """Return LaTeX tables (booktabs) of the runs' figures and, where there is one, of the heat table."""
    rows = []
    for run, name, own in zip(runs, names, adjusted):
        figures = [(figure({**run.metrics, **own}, column.key), column.form) for column in columns]
        rows.append([name, *(found.text(form) if found else "" for found, form in figures)])
    tables = [_table(["run", *(column.title for column in columns)], rows)]
    if heat:
        cells = [
            [name, *(f"{cell.value} {cell.interval}".strip() if cell else "" for cell in changes), *cost]
            for name, changes, cost in heat.rows
        ]
        header = ["run", *heat.columns, "perplexity ratio", "neutral drift"]
        tables.append(f"% {heat.about}\n{_table(header, cells)}")
    return "% needs \\usepackage{booktabs}; brackets: 95% bootstrap intervals over items\n" + "\n".join(tables)


def escaped(value: str) -> str:
    """Return text that LaTeX prints as it stands."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(value.split()))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", "\\toprule", _line(header), "\\midrule"]
    lines += [_line(row) for row in rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _line(cells: Sequence[str]) -> str:
    first, *others = (escaped(cell) for cell in cells)
    others = [_MINUS.sub("$-$", cell) for cell in others]
    # A bracket at the start of a cell would be read as the argument of the line break before it.
    return " & ".join([first, *others]).replace("[", "{[}") + " \\\\"
