"""A contrastive Taylor mask as what it is made from: a few vectors by Linear and round, and one threshold a round."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from persona_prune.gradients import Damage, LowRank
from persona_prune.masks import Mask, pack_bits
from persona_prune.methods.contrastive_taylor import benefit_per_damage
from persona_prune.methods.vector_coding import (
    check_floats,
    pack_codes,
    pack_floats,
    positive_codes,
    positive_values,
    signed_codes,
    signed_values,
    unpack_codes,
    unpack_floats,
)
from persona_prune.persona_files import (
    FileManifest,
    check_name,
    checked_shape,
    open_persona_file,
    read_tensors,
    save_persona_file,
)

FORMAT = "persona_prune.low_rank.v2"


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

    @property
    def bytes(self) -> int:
        """Size of what is stored, without names and shapes."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    @cached_property
    def _reads(self) -> dict[str, str]:
        """Linear -> the first one that reads the same inputs: q, k and v do, and so do gate and up."""
        leader: dict[bytes, str] = {}
        return {name: leader.setdefault(damage.inputs.numpy().tobytes(), name) for name, damage in self.damage.items()}

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        """What is stored, coded."""
        leaders = dict.fromkeys(self._reads.values())
        kinds: dict[str, list[tuple[Tensor, Tensor]]] = {
            "inputs": [positive_codes(self.damage[name].inputs[None]) for name in leaders],
            "outputs": [positive_codes(damage.outputs[None]) for damage in self.damage.values()],
        }
        for number, one in enumerate(self.rounds):
            kinds[f"left/{number}"] = [signed_codes(one.gradients[name].left.T) for name in self.damage]
            kinds[f"right/{number}"] = [signed_codes(one.gradients[name].right) for name in self.damage]
        tensors = {kind: pack_codes(codes for codes, _ in coded) for kind, coded in kinds.items()}
        return tensors | {"peaks": pack_floats(peaks for coded in kinds.values() for _, peaks in coded)}

    def save(self, path: Path, mask: Mask) -> int:
        """Write the recipe as safetensors (all or nothing), with the digest of its ``mask``; return its bytes."""
        ranks = {name: self.rounds[0].gradients[name].right.shape[0] for name in self.damage}
        manifest = {
            "format": FORMAT,
            "model_fingerprint": self.model_fingerprint,
            "linears": {
                name: [len(damage.outputs), len(damage.inputs), ranks[name]] for name, damage in self.damage.items()
            },
            "reads": self._reads,
            "thresholds": [one.threshold for one in self.rounds],
            "mask_digest": mask_digest(mask),
            "description": dict(self.description),
        }
        return save_persona_file(path, self._tensors, manifest)


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
        linears, reads = _linears(manifest.get("linears")), manifest.get("reads")
        if not isinstance(reads, dict) or reads.keys() != linears.keys():
            raise ValueError("its manifest does not say which inputs its Linears read")
        leaders = list(dict.fromkeys(reads.values()))
        if any(leader not in linears or linears[leader][1] != linears[name][1] for name, leader in reads.items()):
            raise ValueError("its manifest names Linears that do not read the same inputs")
        if not isinstance(manifest.get("mask_digest"), str):
            raise ValueError("its manifest has no mask_digest")
        # Before anything is made of what the manifest claims: every vector has a peak in the file.
        claimed = len(leaders) + len(linears) + 2 * len(thresholds) * sum(rank for *_, rank in linears.values())
        check_floats(claimed, file.get_slice("peaks").get_shape())
        shapes = {
            "inputs": [(1, linears[name][1]) for name in leaders],
            "outputs": [(1, rows) for rows, _, _ in linears.values()],
        }
        for number in range(len(thresholds)):
            shapes[f"left/{number}"] = [(rank, rows) for rows, _, rank in linears.values()]
            shapes[f"right/{number}"] = [(rank, columns) for _, columns, rank in linears.values()]
        stored = read_tensors(file, checksum=True)
        if stored.keys() != {*shapes, "peaks"}:
            raise ValueError("the tensors are not those of its rounds")
        counts = [count for kind in shapes.values() for count, _ in kind]
        peaks = iter(unpack_floats(stored["peaks"], counts))

        def vectors(kind: str, values: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
            return [values(codes, next(peaks)) for codes in unpack_codes(stored[kind], shapes[kind])]

        # In the order of the peaks.
        inputs = dict(zip(leaders, vectors("inputs", positive_values), strict=True))
        outputs = vectors("outputs", positive_values)
        damage = {name: Damage(inputs[reads[name]][0], own[0]) for name, own in zip(linears, outputs, strict=True)}
        rounds = []
        for number, threshold in enumerate(thresholds):
            left, right = (vectors(f"{side}/{number}", signed_values) for side in ("left", "right"))
            factors = zip(linears, left, right, strict=True)
            rounds.append(Round({name: LowRank(a.T.contiguous(), b) for name, a, b in factors}, threshold))
        return Recipe(damage, rounds, manifest["model_fingerprint"], dict(manifest["description"]))


def _linears(stored: object) -> dict[str, tuple[int, int, int]]:
    """Return out_features, in_features and rank by Linear."""
    if not isinstance(stored, dict) or not stored:
        raise ValueError("its manifest names no Linears")
    found = {}
    for name, shape in stored.items():
        check_name(name)
        rows, columns, rank = checked_shape(name, shape)
        if rank > min(rows, columns):
            raise ValueError(f"{name} has more vectors than dimensions")
        found[name] = (rows, columns, rank)
    return found
