"""The protocol of a baseline, and what it is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from persona_prune.calibration.neutral import Guard
from persona_prune.common.progress import Progress
from persona_prune.common.validation import Name
from persona_prune.masks.applying import Intervention
from persona_prune.models.loaded import LoadedModel
from persona_prune.personas.pairs import Pair
from persona_prune.personas.persona import AnyPersona, Mix


@dataclass(frozen=True)
class Material:
    """What a baseline may learn from.

    Attributes:
        persona: who the model is to become.
        pairs: calibration pairs, ``matching`` showing the persona.
        validation: pairs to choose settings on, for a baseline with ``uses_validation``; none of them is in ``pairs``,
            none is evaluated.
        guard: returns a check of what the persona costs on neutral text; the model must be dense when it is called.
        batch_size: pairs per forward pass.
        max_tokens: prompt and answer are cut at this length.
        seed: of everything random.
    """

    persona: AnyPersona
    pairs: Sequence[Pair]
    validation: Sequence[Pair]
    guard: Callable[[], Guard]
    batch_size: int
    max_tokens: int
    seed: int


def refuse_mix(persona: AnyPersona) -> None:
    """Raise ValueError for a mix with shares, which mean something for masks only."""
    if isinstance(persona, Mix) and not persona.pooled:
        raise ValueError(f"persona {persona.name} is a mix: its shares are of a mask's drops; choose a mask method")


class Baseline(Protocol):
    """What a YAML of a baseline in ``conf/method`` builds."""

    name: Name
    uses_pairs: ClassVar[bool]
    uses_validation: ClassVar[bool]
    is_control: ClassVar[bool]

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError if it can't be had for ``persona``; called before any weights load."""

    def build(self, loaded: LoadedModel, material: Material, progress: Progress) -> Intervention:
        """Return what makes the dense model ``loaded`` the persona; the model is left as it was."""
