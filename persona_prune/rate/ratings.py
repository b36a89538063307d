"""What raters chose: the JSON that the page exports, read and checked against the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from persona_prune.common.text_files import read_text
from persona_prune.common.validation import STRICT
from persona_prune.rate.ballots import Sheet

Choice = Literal["1", "2", "tie", "nonsense"]


@dataclass(frozen=True, config=STRICT)
class Rating:
    """A choice on a ballot, and the seconds that the ballot was looked at."""

    id: str
    choice: Choice
    seconds: Annotated[float, Field(ge=0.0)]


@dataclass(frozen=True, config=STRICT)
class _Export:
    page: str
    rater: str
    seed: int
    ballots: list[Rating]


@dataclass(frozen=True, config=STRICT)
class Rater:
    """One rater's choices, by ballot."""

    name: str
    ratings: Mapping[str, Rating]


def read_raters(paths: Sequence[Path], sheet: Sheet) -> list[Rater]:
    """Read exported ratings of ``sheet``, a file a rater.

    Raises:
        ValueError: a file is damaged, of another page, or empty; or two are by the same rater.
        OSError: there is no such file.
    """
    raters: list[Rater] = []
    for path in paths:
        found = _read(path, sheet)
        for number, earlier in enumerate(raters):
            if found.name == earlier.name:
                raise ValueError(f"{paths[number]} and {path} are both by {found.name}: give the last one only")
        raters.append(found)
    return raters


def _read(path: Path, sheet: Sheet) -> Rater:
    try:
        found = TypeAdapter(_Export).validate_json(read_text(path))
    except ValidationError as error:
        raise ValueError(f"{path}: {_problem(error)}") from None
    if found.page != sheet.digest:
        seed = "" if found.seed == sheet.seed else f" with --seed {found.seed}"
        raise ValueError(
            f"{path}: rated on another page ({found.page}{seed}, this is {sheet.digest}): "
            "give the same runs, --seed, --limit and --against as the page was written with"
        )
    known = {ballot.id for ballot in sheet.ballots}
    ratings: dict[str, Rating] = {}
    for rating in found.ballots:
        if rating.id not in known:
            raise ValueError(f"{path}: ballot {rating.id!r} is not on the page")
        if rating.id in ratings:
            raise ValueError(f"{path}: ballot {rating.id!r} is there twice")
        ratings[rating.id] = rating
    if not ratings:
        raise ValueError(f"{path}: nothing is rated in it")
    return Rater(found.rater.strip() or str(path), ratings)


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].replace("Input should be", "must be")
    if not where:
        return f"damaged: {message}"
    given = "" if first["type"] == "missing" else f"={first['input']!r:.60}"
    return f"{where}{given}: {message}"
