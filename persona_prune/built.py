"""What a run applies, how it is stored, and what its file says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from persona_prune.apply import Intervention
from persona_prune.config import Plan
from persona_prune.gradient_building import GradientMask
from persona_prune.masks import Mask
from persona_prune.methods.selection import Selection
from persona_prune.methods.signature_recipe import SignatureRecipe
from persona_prune.models import ModelSpec
from persona_prune.personas import Mix, Persona


@dataclass(frozen=True)
class Built:
    """What a run applies.

    Attributes:
        intervention: makes the dense model the persona.
        mask: what that is, if it is a mask.
        opposite: the opposite persona's mask, where it came along for nothing.
        gradient: for a gradient mask, what is stored of it.
        signature: for a signature mask, what it can be rebuilt from.
    """

    intervention: Intervention
    mask: Mask | None = None
    opposite: Mask | None = None
    gradient: GradientMask | None = None
    signature: SignatureRecipe | None = None

    def save(self, path: Path) -> int:
        """Write the persona file, unless this is a baseline; return what has to be stored, in bytes.

        A mask is stored as what it is made from, unless the mask itself takes less.
        """
        if self.gradient is not None:
            return self.gradient.save(path)
        if self.mask is None:
            return self.intervention.bytes
        if self.signature is not None and self.signature.bytes < self.mask.entropy:
            return self.signature.save(path, self.mask)
        return self.mask.save(path)


def description_of(plan: Plan, method: Selection, persona: Persona | Mix) -> dict[str, object]:
    """Return what a persona file says of what made it, as plain JSON values.

    Args:
        plan: of the run.
        method: as it is used for ``persona``.
        persona: the plan's, or the part of a mix that a mask is of.
    """
    return {
        "method": method.name,
        "sparsity": method.sparsity,
        "gamma": method.gamma,
        "seed": plan.seed,
        "persona": persona.shown,
        "persona_description": persona.about,
        "opposite": persona.name if persona.flip else persona.opposite,
        "flipped": persona.flip,
        "model": plan.model.name,
        "model_source": _source(plan.model),
    }


def _source(model: ModelSpec) -> Mapping[str, object]:
    """Return where the model's weights come from, as configured."""
    found = {key: getattr(model, key, None) for key in ("path", "revision", "package", "distribution")}
    return {key: value for key, value in found.items() if value is not None}
