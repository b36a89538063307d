"""Personas and mixes of them: plain data, no model and no file access."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from persona_prune.common.validation import STRICT, Name, Text
from persona_prune.personas.pairs import Pair, Pole


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Named:
    """What a persona and a mix of them are called; ``flip``: towards the opposite."""

    name: Name
    description: Text
    opposite: Name | None
    system_prompt: Text | None
    source: str | None
    flip: bool

    @property
    def shown(self) -> str:
        """Name of the pole it becomes: the opposite's, where it is flipped."""
        return (self.opposite or f"not_{self.name}") if self.flip else self.name

    @property
    def about(self) -> str:
        """One sentence on what it becomes."""
        return about(self.name, self.description, flip=self.flip)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Persona(_Named):
    """Who the model is to become, and where examples of it come from.

    Attributes:
        name: the persona's name, as in ``persona=<name>``.
        description: one sentence for reports.
        opposite: name of the contrasting persona, or null.
        system_prompt: how a prompt would ask for this persona (used by the prompt baseline only).
        pairs: name of the embedded pair set under ``personas/embedded/``, or null when the user brings the pairs.
        pole: which side of the *embedded* set shows this persona.
        source: where those pairs come from, or null.
        flip: swap the poles of every pair file, embedded or the user's, so that its other side is the target.
    """

    pairs: Name | None
    pole: Pole

    @property
    def spoken_for(self) -> bool:
        """Whether the system prompt describes the persona as it is turned: a flipped embedded one has another name."""
        return not self.flip or self.pairs is None

    @property
    def parts(self) -> "tuple[tuple[Persona, float], ...]":
        """The personas this one is made of, with their shares: itself."""
        return ((self, 1.0),)

    def orient(self, pairs: Iterable[Pair], *, embedded: bool) -> tuple[Pair, ...]:
        """Return ``pairs`` so that ``matching`` shows this persona."""
        swap = self.flip != (embedded and self.pole == "not_matching")
        return tuple(pair.flipped() if swap else pair for pair in pairs)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mix(_Named):
    """Several personas at once (``persona=mix persona.weights={extrovert: 0.7, thinker: 0.3}``).

    A mask for a mix drops what the masks of its parts drop, each built with its share of the sparsity. Appendix F of
    the paper joins 70% of one persona's largest parameters with 30% of another's; at the sparsities where the personas'
    masks hardly differ in what they keep, that is one mask twice. What a persona *drops* is what sets it apart, so the
    shares are of the drops.

    ``pooled``: one mask from the pairs of all parts together instead; the shares must be equal then.

    Attributes:
        name: the mix's name.
        description: one sentence for reports.
        opposite: name of the contrasting persona, or null.
        system_prompt: how a prompt would ask for it; null for those of all parts, one after the other.
        source: where the pairs come from, or null.
        weights: name of a persona -> its share; divided by their sum.
        pooled: calibrate once, on the pairs of all parts.
        personas: the personas of those names, in the same order.
        flip: every part towards its opposite.
    """

    weights: Annotated[dict[Name, Annotated[float, Field(gt=0.0)]], Field(min_length=1)]
    pooled: bool
    personas: list[Persona]

    def __post_init__(self) -> None:
        if self.pooled and len(set(self.weights.values())) > 1:
            raise ValueError("pooled pairs have no shares: give equal weights, or persona.pooled=false")
        if self.system_prompt is None:
            joined = " ".join(p.system_prompt for p in self.personas if p.system_prompt)
            object.__setattr__(self, "system_prompt", joined or None)

    @property
    def parts(self) -> tuple[tuple[Persona, float], ...]:
        """The personas with their shares, which add up to 1."""
        total = sum(self.weights.values())
        turned = [replace(p, flip=p.flip != self.flip) for p in self.personas]
        return tuple((p, weight / total) for p, weight in zip(turned, self.weights.values(), strict=True))

    @property
    def spoken_for(self) -> bool:
        """Whether the system prompt describes the persona as it is turned."""
        return not self.flip

    @property
    def pairs(self) -> None:
        """A mix has no pairs of its own."""
        return None

    def orient(self, pairs: Iterable[Pair], *, embedded: bool) -> tuple[Pair, ...]:
        """Raise ValueError: a file's pairs show one persona."""
        raise ValueError(f"persona {self.name} takes the embedded pairs of its parts: a pair file can't be divided")


AnyPersona = Persona | Mix
"""Who the model is to become: one persona, or several at once."""


def about(name: str, description: str, *, flip: bool) -> str:
    """Return what is said of a persona: its description, or, where it is flipped, what it is the opposite of."""
    return f"The opposite of {name}: {description}".strip() if flip else description
