"""Shared pydantic settings, field types and words, so that every configured class refuses bad values alike."""

import difflib
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from persona_prune.common.text_files import encodable

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
"""Configuration of every dataclass built from YAML: unknown keys and wrong types are errors."""

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A number in [0, 1): sparsity, gating factor."""

PositiveInt = Annotated[int, Field(ge=1)]
"""A count of at least one: batch sizes, lengths, limits."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
"""A name that is safe as a file name: letters, digits and ``_ . + -``."""

Text = Annotated[str, AfterValidator(encodable)]
"""A text that a tokenizer can be given: no halves of characters, as bytes that are not UTF-8 become, and no NUL."""

Positions = Literal["response", "all"]
"""Which tokens a statistic sees: the answer's, or prompt and answer."""


def neighbours(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ...?" for a near miss, else the list of what there is."""
    known = sorted(known)
    if not known:
        return "there is none"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there is {', '.join(known)}"
