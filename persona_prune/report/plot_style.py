"""What all plots of a page share: style, colours, and SVG that follows the reader's colour scheme."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

MASKED, DENSE = "#3b82c4", "#c4763b"
INK = "#808890"
"""What text and axes are drawn in; the page replaces it by the grey that reads best on its background."""

MARKS = (
    # Okabe and Ito's colours, which colour-blind readers can tell apart: without the yellow that white swallows, and
    # with a lighter first blue, which black would swallow.
    (MASKED, "o"),
    ("#e69f00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#56b4e9", "v"),
    ("#d55e00", "P"),
)
"""Colour and marker of the first, second, ... of several series."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "persona_prune",
    "font.family": "sans-serif",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_UNUSED_IDS = re.compile(r'<g id="[A-Za-z._]+_\d+">')


@contextmanager
def plotting() -> Iterator[None]:
    """Apply the style of the pages' plots while the body runs."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The text stays text, so that the browser draws what matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def svg(figure: Figure, titles: Mapping[str, str] | None = None) -> Markup:
    """Return ``figure`` as an SVG element for inlining.

    Args:
        figure: drawn under `plotting`.
        titles: what hovering over an artist shows, by the artist's gid, which may not end in a number.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    text = buffer.getvalue()
    # Several plots share a page: the numbered ids, which nothing refers to, would be there more than once.
    text = _UNUSED_IDS.sub("<g>", text[text.index("<svg") :]).replace(INK, "var(--soft)")
    for gid, title in (titles or {}).items():
        text = text.replace(f'<g id="{gid}">', f"<g><title>{escape(title)}</title>")
    return Markup(text)


def mark(number: int) -> tuple[str, str]:
    """Return colour and marker of series ``number``; every pair comes once among the first 36."""
    colour = MARKS[number % len(MARKS)][0]
    marker = MARKS[(number + number // len(MARKS)) % len(MARKS)][1]
    return colour, marker
