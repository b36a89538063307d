"""Markdown tables of runs, and the generated block of a README."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from experiments.figures import Interval, Run, interval, number
from persona_prune.common.text_files import write_text

BEGIN, END = "<!-- results -->", "<!-- /results -->"
_RUN_COLUMNS = {
    "items": "",
    "accuracy": ".2f",
    "accuracy_norm": ".2f",
    "margin": "+.2f",
    "matching_log_prob_delta": "+.2f",
    "margin_vs_random": "+.2f",
    "margin_vs_generic": "+.2f",
    "margin_vs_opposite": "+.2f",
}
_HEARD = {"heard": "expressed", "judges": "persona", "coherent": "coherent"}
_NAMES = {
    "accuracy_norm": "per token",
    "matching_log_prob_delta": "own answers",
    "margin_vs_random": "margin - random",
    "margin_vs_generic": "margin - generic",
    "margin_vs_opposite": "margin - opposite",
}


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table without the columns that are empty in every row."""
    rows = [list(row) for row in rows]
    used = [place for place in range(len(columns)) if not rows or any(row[place] for row in rows)]
    lines = [[columns[place] for place in used], ["---"] * len(used)]
    lines += [[row[place].replace("|", "\\|").replace("\n", " ") for place in used] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def runs_table(
    runs: Iterable[Run], *, evaluator: str = "choice", label: Callable[[Run], str] = lambda run: run.label
) -> str:
    """Return persona, method and the figures of every run, intervals included; dense figures in rows of their own."""
    rows, seen = [], set()
    for run in runs:
        items = str(len(run.items(evaluator).samples))
        asked = (run.model, run.persona, items)
        if f"dense/{evaluator}/margin" in run.metrics and asked not in seen and run.method != "none":
            seen.add(asked)
            heard = _heard(run, "dense/speech")
            rows.append([run.persona, "dense", *heard, *_figures(run, f"dense/{evaluator}", items), "", ""])
        ratio = number(run.metrics, "capability/perplexity_ratio", ".3g") if run.method != "none" else ""
        drift = number(run.metrics, "capability/neutral_drift", "+.2f") if run.method != "none" else ""
        heard = _heard(run, "speech")
        rows.append([run.persona, label(run), *heard, *_figures(run, evaluator, items), ratio, drift])
    columns = [_NAMES.get(key, key) for key in _RUN_COLUMNS]
    return markdown(["persona", "method", *_HEARD, *columns, "perplexity ratio", "neutral drift"], rows)


def _heard(run: Run, prefix: str) -> list[str]:
    return [interval(run.metrics, f"{prefix}/{key}", ".2f") for key in _HEARD.values()]


def _figures(run: Run, prefix: str, items: str) -> list[str]:
    return [items, *(interval(run.metrics, f"{prefix}/{key}", form) for key, form in _RUN_COLUMNS.items() if form)]


def percent(found: Interval, form: str = ".1f") -> str:
    """Return an interval of shares in percent."""
    value, low, high = (format(100 * share, form) for share in (found.value, found.low, found.high))
    return f"{value}% [{low}, {high}]"


def write_block(readme: Path, text: str) -> None:
    """Put ``text`` between the markers of a README.

    Raises:
        ValueError: it has no markers.
    """
    content = readme.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(content):
        raise ValueError(f"{readme}: has no {BEGIN} ... {END} to write the results to")
    write_text(readme, pattern.sub(lambda _: f"{BEGIN}\n{text.strip()}\n{END}", content, count=1))
