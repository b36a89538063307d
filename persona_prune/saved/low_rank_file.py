"""Persona files that hold a low-rank recipe."""

import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from persona_prune.calibration.damage import Damage
from persona_prune.calibration.gradients import LowRank
from persona_prune.masks.mask import Mask, mask_digest
from persona_prune.methods.low_rank_recipe import Recipe, Round
from persona_prune.methods.vector_codes import positive_codes, positive_values, signed_codes, signed_values
from persona_prune.saved.container import (
    FileManifest,
    check_name,
    checked_shape,
    open_persona_file,
    read_tensors,
    save_persona_file,
)
from persona_prune.saved.vector_coding import check_floats, pack_codes, pack_floats, unpack_codes, unpack_floats

FORMAT = "persona_prune.low_rank.v2"


def size(recipe: Recipe) -> int:
    """Return the bytes of what is stored, without names and shapes."""
    return sum(tensor.nbytes for tensor in _coded(recipe).values())


def save_recipe(recipe: Recipe, path: Path, mask: Mask) -> int:
    """Write a recipe as safetensors (all or nothing), with the digest of its ``mask``; return its bytes."""
    ranks = {name: recipe.rounds[0].gradients[name].right.shape[0] for name in recipe.damage}
    manifest = {
        "format": FORMAT,
        "model_fingerprint": recipe.model_fingerprint,
        "linears": {
            name: [len(damage.outputs), len(damage.inputs), ranks[name]] for name, damage in recipe.damage.items()
        },
        "reads": _reads(recipe),
        "thresholds": [one.threshold for one in recipe.rounds],
        "mask_digest": mask_digest(mask),
        "description": dict(recipe.description),
    }
    return save_persona_file(path, _coded(recipe), manifest)


def _reads(recipe: Recipe) -> dict[str, str]:
    """Return Linear -> the first one that reads the same inputs: q, k and v do, and so do gate and up."""
    leader: dict[bytes, str] = {}
    return {name: leader.setdefault(damage.inputs.numpy().tobytes(), name) for name, damage in recipe.damage.items()}


def _coded(recipe: Recipe) -> dict[str, Tensor]:
    leaders = dict.fromkeys(_reads(recipe).values())
    kinds: dict[str, list[tuple[Tensor, Tensor]]] = {
        "inputs": [positive_codes(recipe.damage[name].inputs[None]) for name in leaders],
        "outputs": [positive_codes(damage.outputs[None]) for damage in recipe.damage.values()],
    }
    for number, one in enumerate(recipe.rounds):
        kinds[f"left/{number}"] = [signed_codes(one.gradients[name].left.T) for name in recipe.damage]
        kinds[f"right/{number}"] = [signed_codes(one.gradients[name].right) for name in recipe.damage]
    tensors = {kind: pack_codes(codes for codes, _ in coded) for kind, coded in kinds.items()}
    return tensors | {"peaks": pack_floats(peaks for coded in kinds.values() for _, peaks in coded)}


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
