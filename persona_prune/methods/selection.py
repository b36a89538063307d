"""From scores to kept weights: the settings all masks share, sparsity by module, blocks, and disjoint poles."""

import re
from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator
from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.masks import kept_per_row, row_top_k
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


def block_top_k(score: Tensor, tie_break: Tensor, sparsity: float, block_columns: int) -> Tensor:
    """Like `masks.row_top_k`, within every block of ``block_columns`` columns (the last one may be narrower)."""
    blocks = zip(torch.split(score, block_columns, 1), torch.split(tie_break, block_columns, 1), strict=True)
    return torch.cat([row_top_k(part, ties, sparsity) for part, ties in blocks], dim=1)


def disjoint_top_k(
    score: Tensor, other_score: Tensor, tie_break: Tensor, other_tie_break: Tensor, sparsity: float
) -> tuple[Tensor, Tensor]:
    """Keep ``floor((1 - sparsity) n)`` weights of every row for either pole, with the smallest possible overlap.

    A weight belongs to the pole with the larger score (equal scores: to the larger tie-break; equal again: even columns
    to the first pole). A pole keeps its own best weights; one that owns too few takes what the other owns but doesn't
    keep, and only then what the other keeps. Up to half the row the masks are disjoint; beyond, the overlap of a row is
    exactly ``2 K - n``.

    Returns:
        Two bool tensors ``[out_features, in_features]``, True = keep.
    """
    columns = score.shape[1]
    kept = kept_per_row(columns, sparsity)
    even = torch.arange(columns, device=score.device) % 2 == 0
    equal, equal_tie = score == other_score, tie_break == other_tie_break
    own = (score > other_score) | (equal & (tie_break > other_tie_break)) | (equal & equal_tie & even)
    first = _lexicographic_top_k([own.float(), score, tie_break], kept)
    second = _lexicographic_top_k([(~own).float(), other_score, other_tie_break], kept)
    # A pole that kept more than it owns chooses again, avoiding what the other keeps of its own.
    other_keeps, keeps = second & ~own, first & own
    first = _lexicographic_top_k([own.float(), (~other_keeps).float(), score, tie_break], kept)
    second = _lexicographic_top_k([(~own).float(), (~keeps).float(), other_score, other_tie_break], kept)
    return first, second


def _lexicographic_top_k(keys: list[Tensor], kept: int) -> Tensor:
    """Keep the ``kept`` best of every row by the first key, then the second, ...; at last the lower column."""
    order = torch.arange(keys[0].shape[1], device=keys[0].device).expand_as(keys[0])
    for key in reversed(keys):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=True, stable=True))
    chosen = torch.zeros_like(keys[0], dtype=torch.bool)
    return chosen.scatter_(1, order[:, :kept], True)
