"""The page that compares many runs."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jinja2.utils import htmlsafe_json_dumps

from persona_prune.evaluators.statistics import RESAMPLES, SMALLEST_P
from persona_prune.report.curves import sparsity_curves
from persona_prune.report.doubts import doubts
from persona_prune.report.figures import RATIO, Column, columns, figure, holm_adjusted
from persona_prune.report.item_margins import embedded_items
from persona_prune.report.pages import environment
from persona_prune.report.questions import groups
from persona_prune.report.run_settings import common, labels, named, settings, shortened, text, varying
from persona_prune.report.tables import runs_csv, tables_tex
from persona_prune.report.tradeoff import ALIGNMENTS, left_out, tradeoffs
from persona_prune.report.traits import heat, radars
from persona_prune.report.verdict import WRECKED
from persona_prune.saved.finished_runs import Found, Run

_MOST_VALUES = 12  # of a setting, listed by name


@dataclass(frozen=True)
class Cell:
    """One cell of the table of runs: what it shows, and the number it is sorted by (NaN where there is none)."""

    value: str
    interval: str
    order: float
    wrecked: bool


def comparison(found: Found, output: Path) -> dict[str, str]:
    """Return the files that compare the runs, by name: the page, ``runs.csv`` and ``tables.tex``.

    Args:
        found: the runs.
        output: the directory the files will stand in, from which they link to the runs.
    """
    runs = found.runs
    names, keys, adjusted = labels(runs), varying(runs), holm_adjusted(runs)
    shown, by_question, heated = columns(runs, adjusted), groups(runs), heat(runs)
    drawn, cut_radars = radars(runs)
    carried = embedded_items(runs, names)
    page = environment().get_template("comparison.html")
    html = page.render(
        title=_count(len(runs), "run") + (f": {names[0]}" if len(runs) == 1 else ""),
        names=names,
        shortened=shortened,
        sentences=_sentences(runs, adjusted, keys),
        left_out=[(_path(path, output), reason) for path, reason in found.left_out],
        differences=[(key, _values(runs, key)) for key in keys],
        common=yaml.safe_dump(common(runs), sort_keys=False, allow_unicode=True),
        keys=named(keys),
        columns=shown,
        rows=[_row(run, own, named(keys), shown, output) for run, own in zip(runs, adjusted)],
        tests=_count(sum(len(own) for own in adjusted), "such test"),
        tradeoffs=tradeoffs(runs, by_question),
        undrawn=left_out(by_question),
        alignments={metric: label.partition(" (")[0] for metric, label in ALIGNMENTS.items()},
        curves=sparsity_curves(runs, by_question),
        heat=heated,
        radars=drawn,
        cut_radars=cut_radars,
        doubts=[(name, why) for name, run in zip(names, runs) if (why := doubts(run.metrics))],
        wrecked=WRECKED,
        items=carried,
        data=htmlsafe_json_dumps(carried.data, ensure_ascii=False, allow_nan=False, separators=(",", ":")),
    )
    return {
        "comparison.html": html,
        "runs.csv": runs_csv(runs, names, keys, adjusted, output),
        "tables.tex": tables_tex(runs, names, shown, adjusted, heated),
    }


def _sentences(runs: Sequence[Run], adjusted: Sequence[Mapping[str, float]], keys: Sequence[str]) -> list[str]:
    """Say in words what the runs are, how many move, and what it costs."""
    models = ", ".join(dict.fromkeys(run.model for run in runs))
    what = f"What differs: {', '.join(keys)}." if keys else "Their settings do not differ."
    sentences = [f"Model: {models}. {what}" if len(runs) > 1 else f"Model: {models}."]
    for evaluator in ("choice", "multiple_choice"):
        deltas = [f for run in runs if (f := figure(run.metrics, f"{evaluator}/margin_delta"))]
        if deltas:
            above = sum(f.low is not None and f.low > 0 for f in deltas)
            below = sum(f.high is not None and f.high < 0 for f in deltas)
            family = [own[key] for own in adjusted if (key := f"{evaluator}/margin_p_holm") in own]
            sentences.append(
                f"Of {_count(len(deltas), 'run')} compared with dense ({evaluator}), the margin's interval lies above "
                f"0 in {above} and below 0 in {below}; p stays below 0.05 after Holm's correction in "
                f"{sum(p < 0.05 for p in family)}.{_too_many(sum(len(own) for own in adjusted))}"
            )
    sentences.append(_cost(runs))
    return sentences


def _too_many(tests: int) -> str:
    """Say so where even the smallest p that random sign flips can give is too large for so many tests."""
    if SMALLEST_P * tests < 0.05:
        return ""
    drawn = f"p comes from {RESAMPLES:,} random sign flips, never below {SMALLEST_P:.1g}"
    return f" With {tests} tests it hardly can: {drawn}."


def _cost(runs: Sequence[Run]) -> str:
    changed = [run for run in runs if run.method != "none"]
    ratios = [run.metrics[RATIO] for run in changed if RATIO in run.metrics]
    if not ratios:
        return "What it costs in capability was measured in none of the runs: no alignment figure can be judged."
    text = f"Perplexity ratio: {min(ratios):.3f} to {max(ratios):.3f}."
    wrecked = sum(not ratio <= WRECKED for ratio in ratios)
    if wrecked:
        text += f" Beyond {WRECKED:g}, where a choice of two says nothing about a persona: {_count(wrecked, 'run')}."
    if len(ratios) < len(changed):
        text += f" Not measured in {_count(len(changed) - len(ratios), 'run')}, whose alignment can't be judged."
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _values(runs: Sequence[Run], key: str) -> str:
    """Return the values of a setting that come up, and in how many runs; of many only the number."""
    counts: dict[str, int] = {}
    for run in runs:
        own = settings(run)
        if key in own:
            counts[text(own[key])] = counts.get(text(own[key]), 0) + 1
    parts = [shortened(value) + (f" ({count})" if count > 1 else "") for value, count in counts.items()]
    rest = len(parts) - _MOST_VALUES
    return ", ".join(parts[:_MOST_VALUES]) + (f", and {rest} more" if rest > 0 else "")


def _row(
    run: Run, adjusted: Mapping[str, float], keys: Sequence[Sequence[str]], shown: Sequence[Column], output: Path
) -> dict[str, Any]:
    own = settings(run)
    metrics = {**run.metrics, **adjusted}
    files = {"report": run.path / "report.html", "config": run.path / ".hydra" / "config.yaml"}
    return {
        "directory": run.path.name,
        "links": {name: quote(_path(file, output)) for name, file in files.items() if file.is_file()},
        "settings": [[text(own[key]) if key in own else "" for key in part] for part in keys],
        "cells": [_cell(metrics, column) for column in shown],
    }


def _cell(metrics: Mapping[str, float], column: Column) -> Cell:
    found = figure(metrics, column.key)
    wrecked = column.key == RATIO and not metrics.get(RATIO, 1.0) <= WRECKED
    if found is None:
        value = f"{metrics[column.key]}" if column.key in metrics else ""
        return Cell(value, "", metrics.get(column.key, math.nan), wrecked)
    return Cell(format(found.value, column.form), found.interval(column.form), found.value, wrecked)


def _path(path: Path, output: Path) -> str:
    return Path(os.path.relpath(path, output)).as_posix()
