"""From scores to kept weights: the settings all masks share, sparsity by module, blocks, and disjoint poles."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator
from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.masks import TieBreak, kept_per_row, row_top_k
from persona_prune.validation import STRICT, Fraction, Name

_MODULES = {"attention": r"attn|attention", "mlp": r"mlp|feed_forward|ffn"}
_OVERRIDE = re.compile(
    r"(?P<module>layers|attention|mlp)(?:\.(?P<first>\d+)(?:-(?P<last>\d+))?)?:(?P<sparsity>\d*\.?\d+)"
)


def _checked(overrides: list[str]) -> list[str]:
    for override in overrides:
        match = _OVERRIDE.fullmatch(override)
        if not match or (match["module"] == "layers" and match["first"] is None):
            raise ValueError(f"{override!r} is no override; write mlp:0.3, attention:0.6, layers.0-9:0.1 or mlp.3:0.5")
        if not 0 <= float(match["sparsity"]) < 1:
            raise ValueError(f"{override!r}: the sparsity must be in [0, 1)")
    return overrides


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Selection:
    """What every mask is configured with.

    Attributes:
        name: the method's name.
        sparsity: share of every row that is dropped.
        gamma: what dropped weights are multiplied with (equation 7).
        overrides: other sparsities, as ``module:sparsity``, where module is ``attention``, ``mlp``, ``layers.0-9`` or
            ``mlp.3``; the last match wins.
    """

    name: Name
    sparsity: Fraction
    gamma: Fraction
    overrides: Annotated[list[str], AfterValidator(_checked)]

    def shared(self, share: float) -> Self:
        """Return the same method for a part of a mix, with ``share`` of what may be dropped."""
        scaled = [
            f"{module}:{float(sparsity) * share:g}" for module, sparsity in (o.split(":") for o in self.overrides)
        ]
        return replace(self, sparsity=self.sparsity * share, overrides=scaled)

    def check_overrides(self, linears: Iterable[str]) -> None:
        """Raise ValueError if an override matches none of the Linears of these names."""
        names = list(linears)
        for override in self.overrides:
            match = _OVERRIDE.fullmatch(override)
            if match and not any(_matches(match, name) for name in names):
                raise ValueError(f"method.overrides: {override} matches no Linear of this model, such as {names[-1]}")

    def sparsity_of(self, linear: str) -> float:
        """Return the sparsity of the Linear with this name."""
        sparsity = self.sparsity
        for override in self.overrides:
            match = _OVERRIDE.fullmatch(override)
            if match and _matches(match, linear):
                sparsity = float(match["sparsity"])
        return sparsity


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastiveSelection(Selection):
    """The same, and whether the masks of the two poles exclude each other."""

    assignment: Literal["independent", "disjoint"]


def _matches(match: re.Match[str], linear: str) -> bool:
    if match["module"] != "layers" and not re.search(_MODULES[match["module"]], linear):
        return False
    if match["first"] is None:
        return True
    numbers = re.findall(r"\.(\d+)\.", linear)
    last = match["last"] or match["first"]
    return bool(numbers) and int(match["first"]) <= int(numbers[0]) <= int(last)


def block_top_k(score: Tensor, tie_break: TieBreak, sparsity: float, block_columns: int) -> Tensor:
    """Like `masks.row_top_k`, within every block of ``block_columns`` columns (the last one may be narrower)."""
    columns = score.shape[1]
    if block_columns >= columns:
        return row_top_k(score, tie_break, sparsity)

    def block(first: int) -> Tensor:
        last = first + block_columns
        return row_top_k(score[:, first:last], lambda rows: tie_break(rows)[:, first:last], sparsity)

    return torch.cat([block(first) for first in range(0, columns, block_columns)], dim=1)


def disjoint_top_k(
    score: Tensor, other_score: Tensor, tie_break: TieBreak, other_tie_break: TieBreak, sparsity: float
) -> tuple[Tensor, Tensor]:
    """Keep ``floor((1 - sparsity) n)`` weights of every row for either pole, with the smallest possible overlap.

    A weight belongs to the pole with the larger score (equal scores: to the larger tie-break; equal again: even columns
    to the first pole). A pole keeps its own best weights; one that owns too few takes what the other owns but doesn't
    keep, and only then what the other keeps. Up to half the row the masks are disjoint; beyond, the overlap of a row is
    exactly ``2 K - n``.

    Returns:
        Two bool tensors ``[out_features, in_features]``, True = keep.

    Raises:
        ValueError: ``sparsity`` is out of range, or a score is not finite.
    """
    if not (score.isfinite().all() and other_score.isfinite().all()):
        raise ValueError("scores are not finite: the signature or the weights are not")
    own = score > other_score
    equal = (score == other_score).any(1)
    if equal.any():
        even = torch.arange(score.shape[1], device=score.device) % 2 == 0
        ties, other_ties = tie_break(equal), other_tie_break(equal)
        theirs = (ties > other_ties) | ((ties == other_ties) & even)
        own[equal] |= (score[equal] == other_score[equal]) & theirs
    keeps = _best_of_own(own, score, tie_break, sparsity)
    other_keeps = _best_of_own(~own, other_score, other_tie_break, sparsity)
    return (
        _filled(own, keeps, other_keeps, score, tie_break, sparsity),
        _filled(~own, other_keeps, keeps, other_score, other_tie_break, sparsity),
    )


def _best_of_own(own: Tensor, score: Tensor, tie_break: TieBreak, sparsity: float) -> Tensor:
    """Return the best of what a pole owns of every row, or all of it where that is less than it may keep."""
    keeps = own.clone()
    many = own.sum(1) > kept_per_row(own.shape[1], sparsity)
    if many.any():
        masked = score[many].masked_fill_(~own[many], -torch.inf)
        keeps[many] = row_top_k(masked, _of_chosen(tie_break, many), sparsity)
    return keeps


def _filled(
    own: Tensor, keeps: Tensor, other_keeps: Tensor, score: Tensor, tie_break: TieBreak, sparsity: float
) -> Tensor:
    """Return ``keeps``, filled up where a pole owns less than it may keep: first with what the other doesn't keep."""
    kept = kept_per_row(own.shape[1], sparsity)
    few = own.sum(1) < kept
    if not few.any():
        return keeps
    owned = own[few]
    free = ~owned & ~other_keeps[few]
    # Where all that is free doesn't fill the row, it is kept as surely as what is owned.
    short = (owned.sum(1) + free.sum(1) < kept)[:, None]
    sure = owned | (free & short)
    ranked = score[few].masked_fill_(~(free | short), -torch.inf).masked_fill_(sure, torch.inf)
    chosen = keeps.clone()
    chosen[few] = row_top_k(ranked, _of_chosen(tie_break, few), sparsity)
    return chosen


def _of_chosen(tie_break: TieBreak, chosen: Tensor) -> TieBreak:
    """Return the tie-break of the rows that ``chosen`` is True for, as if there were no others."""

    def of(rows: Tensor) -> Tensor:
        among = chosen.clone()
        among[chosen] = rows
        return tie_break(among)

    return of
