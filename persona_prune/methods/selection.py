"""From scores to kept weights: the settings all masks share, sparsity by module, blocks, and disjoint poles."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from persona_prune.common.validation import STRICT, Fraction, Name
from persona_prune.models.layers import place

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
        uses_pairs: whether pairs go into it.
        uses_validation: whether its settings are chosen on pairs of their own.
        is_control: whether it knows nothing of the persona.
        overrides: other sparsities, as ``module:sparsity``, where module is ``attention``, ``mlp``, ``layers.0-9`` or
            ``mlp.3``; the last match wins.
    """

    uses_pairs: ClassVar[bool] = True
    uses_validation: ClassVar[bool] = False
    is_control: ClassVar[bool] = False

    name: Name
    sparsity: Fraction
    gamma: Fraction
    overrides: Annotated[list[str], AfterValidator(_checked)]

    @property
    def disjoint(self) -> bool:
        """Whether the masks of the two poles exclude each other."""
        return False

    def block(self, columns: int) -> int:
        """Return the width of the blocks of columns that each keep the same share: the whole row."""
        return columns

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

    @property
    def disjoint(self) -> bool:
        """Whether they do."""
        return self.assignment == "disjoint"


def _matches(match: re.Match[str], linear: str) -> bool:
    where = place(linear)
    if match["module"] not in ("layers", where.block.casefold()):
        return False
    if match["first"] is None:
        return True
    last = match["last"] or match["first"]
    return where.layer is not None and int(match["first"]) <= where.layer <= int(last)
