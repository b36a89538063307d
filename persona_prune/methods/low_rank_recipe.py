"""A contrastive Taylor mask as what it is made from: a few vectors by Linear and round, and one threshold a round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from persona_prune.calibration.damage import Damage
from persona_prune.calibration.gradients import LowRank
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.methods.contrastive_taylor import benefit_per_damage
from persona_prune.methods.vector_codes import positive_codes, positive_values, signed_codes, signed_values


@dataclass(frozen=True)
class Round:
    """One round: a gradient by Linear, and the benefit per damage beyond which a weight is dropped."""

    gradients: Mapping[str, LowRank]
    threshold: float


@dataclass(frozen=True)
class Recipe:
    """Everything but the model's own weights that a mask is a function of.

    Vectors are kept as codes (`vector_coding`); the mask is computed from what is kept, so that it is the same when it
    is rebuilt.

    Attributes:
        damage: by Linear.
        rounds: in order; a round sees the weights that earlier ones left.
        model_fingerprint: of the dense model.
        description: as in `masks.Mask`.
    """

    damage: Mapping[str, Damage]
    rounds: Sequence[Round]
    model_fingerprint: str
    description: Mapping[str, object]

    def mask(self, linears: Mapping[str, nn.Linear]) -> Mask:
        """Return the mask of the dense weights of ``linears``.

        Raises:
            ValueError: the Linears are not those the recipe is for.
        """
        shapes = {name: (module.out_features, module.in_features) for name, module in linears.items()}
        if shapes.keys() != self.damage.keys() or any(
            (len(self.damage[name].outputs), len(self.damage[name].inputs)) != shape for name, shape in shapes.items()
        ):
            raise ValueError("the persona file is for another model: its Linears are not those of this one")
        bits = {}
        for name, module in linears.items():
            weight = module.weight.detach().float().cpu()
            dropped = torch.zeros(weight.shape, dtype=torch.bool)
            for one in self.rounds:
                dropped |= scores(weight, dropped, one.gradients[name], self.damage[name]) > one.threshold
            bits[name] = pack_bits(~dropped)
        return Mask(bits, shapes, self.model_fingerprint, self.description)


def scores(weight: Tensor, dropped: Tensor, gradient: LowRank, damage: Damage) -> Tensor:
    """Return `benefit_per_damage` of what is not dropped yet, -inf for what is; all on the CPU."""
    return benefit_per_damage(weight, gradient.dense(), damage).masked_fill_(dropped, -torch.inf)


def as_stored(gradient: LowRank) -> LowRank:
    """Return the factors as they are read back from a file."""
    left, right = (signed_values(*signed_codes(side)) for side in (gradient.left.T, gradient.right))
    return LowRank(left.T.contiguous(), right)


def damage_as_stored(damage: Damage) -> Damage:
    """Return the factors as they are read back from a file."""
    inputs, outputs = (positive_values(*positive_codes(side[None]))[0] for side in (damage.inputs, damage.outputs))
    return Damage(inputs, outputs)
