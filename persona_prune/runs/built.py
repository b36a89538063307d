"""What a run applies, how it is stored, and what its file says of it."""

from dataclasses import dataclass
from pathlib import Path

from persona_prune.masks.applying import Intervention
from persona_prune.masks.mask import Mask
from persona_prune.methods.low_rank_recipe import Recipe
from persona_prune.methods.selection import Selection
from persona_prune.methods.signature_recipe import SignatureRecipe
from persona_prune.personas.persona import AnyPersona
from persona_prune.runs.plan import Plan
from persona_prune.saved.persona_file import save_persona


@dataclass(frozen=True)
class Built:
    """What a run applies.

    Attributes:
        intervention: makes the dense model the persona.
        mask: what that is, if it is a mask.
        opposite: the opposite persona's mask, where it came along for nothing.
        recipe: what the mask can be rebuilt from, if anything.
    """

    intervention: Intervention
    mask: Mask | None = None
    opposite: Mask | None = None
    recipe: Recipe | SignatureRecipe | None = None

    def save(self, path: Path) -> int:
        """Write the persona file, unless this is a baseline; return what has to be stored, in bytes."""
        return self.intervention.bytes if self.mask is None else save_persona(path, self.mask, self.recipe)


def description_of(plan: Plan, method: Selection, persona: AnyPersona) -> dict[str, object]:
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
        "model_source": dict(plan.model.source),
    }
