"""A contrastive Taylor mask as what it is made from: a few vectors by Linear and round, and one threshold a round."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from persona_prune.gradients import Damage, LowRank
from persona_prune.masks import Mask, pack_bits
from persona_prune.methods.contrastive_taylor import benefit_per_damage
from persona_prune.persona_files import FileManifest, open_persona_file, read_tensors, save_persona_file

FORMAT = "persona_prune.low_rank.v1"
_SIDES = ("left", "right")


@dataclass(frozen=True)
class Round:
    """One round: a gradient by Linear, and the benefit per damage beyond which a weight is dropped."""

    gradients: Mapping[str, LowRank]
    threshold: float


@dataclass(frozen=True)
class Recipe:
    """Everything but the model's own weights that a mask is a function of.

    Vectors are kept in bfloat16; the mask is computed from what is kept, so that it is the same when it is rebuilt.

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

    def save(self, path: Path, mask: Mask) -> int:
        """Write the recipe as safetensors (all or nothing), with the digest of its ``mask``; return its bytes."""
        tensors: dict[str, Tensor] = {}
        for name, damage in self.damage.items():
            tensors |= {f"inputs/{name}": damage.inputs, f"outputs/{name}": damage.outputs}
        for number, one in enumerate(self.rounds):
            for name, gradient in one.gradients.items():
                tensors |= {f"left/{number}/{name}": gradient.left, f"right/{number}/{name}": gradient.right}
        manifest = {
            "format": FORMAT,
            "model_fingerprint": self.model_fingerprint,
            "thresholds": [one.threshold for one in self.rounds],
            "mask_digest": mask_digest(mask),
            "description": dict(self.description),
        }
        stored = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
        return save_persona_file(path, stored, manifest)


def scores(weight: Tensor, dropped: Tensor, gradient: LowRank, damage: Damage) -> Tensor:
    """Return `benefit_per_damage` of what is not dropped yet, -inf for what is; all on the CPU."""
    return benefit_per_damage(weight, gradient.dense(), damage).masked_fill_(dropped, -torch.inf)


def as_stored(gradient: LowRank) -> LowRank:
    """Return the factors as they are read back from a file."""
    return LowRank(gradient.left.bfloat16().float(), gradient.right.bfloat16().float())


def mask_digest(mask: Mask) -> str:
    """Return 16 hex digits that identify the bits of a mask."""
    digest = hashlib.sha256()
    for name in sorted(mask.bits):
        digest.update(name.encode())
        digest.update(mask.bits[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def load_recipe(path: Path, manifest: FileManifest) -> Recipe:
    """Read a persona file whose manifest has this module's format; raise ValueError if it is damaged."""
    thresholds = manifest.get("thresholds")
    with open_persona_file(path) as (file, _):
        if not isinstance(thresholds, list) or not all(type(t) is float and not math.isnan(t) for t in thresholds):
            raise ValueError("its manifest has no thresholds")
        # Files of earlier versions have no checksum.
        stored = read_tensors(file, torch.bfloat16, checksum=False)
        names = [key.removeprefix("inputs/") for key in stored if key.startswith("inputs/")]
        if not names or len(stored) != 2 * (1 + len(thresholds)) * len(names):
            raise ValueError("the tensors are not those of its rounds")
        kinds = ["inputs", "outputs", *(f"{side}/{number}" for number in range(len(thresholds)) for side in _SIDES)]
        if stored.keys() != {f"{kind}/{name}" for kind in kinds for name in names}:
            raise ValueError("the tensors are not those of its rounds")
        for key, tensor in stored.items():
            if tensor.ndim != (2 if key.startswith(_SIDES) else 1) or not tensor.isfinite().all():
                raise ValueError(f"{key} is not a finite tensor of the right dimensions")
        vectors = {key: tensor.float() for key, tensor in stored.items()}
        damage = {name: Damage(vectors[f"inputs/{name}"], vectors[f"outputs/{name}"]) for name in names}
        rounds = [
            Round(
                {name: LowRank(vectors[f"left/{number}/{name}"], vectors[f"right/{number}/{name}"]) for name in names},
                threshold,
            )
            for number, threshold in enumerate(thresholds)
        ]
        for one in rounds:
            for name, gradient in one.gradients.items():
                shape = (len(damage[name].outputs), gradient.right.shape[0])
                if gradient.left.shape != shape or gradient.right.shape[1] != len(damage[name].inputs):
                    raise ValueError(f"the vectors of {name} do not fit together")
        return Recipe(damage, rounds, manifest["model_fingerprint"], dict(manifest["description"]))
