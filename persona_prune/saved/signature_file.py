"""Persona files that hold statistics of activations and a method's settings."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from persona_prune.masks.mask import Mask, mask_digest
from persona_prune.methods.base import Method
from persona_prune.methods.signature_recipe import REBUILDABLE, SignatureRecipe, statistics_read
from persona_prune.saved.container import (
    FileManifest,
    check_name,
    checked_shape,
    open_persona_file,
    read_tensors,
    save_persona_file,
)
from persona_prune.saved.vector_coding import pack_floats, unpack_floats

FORMAT = "persona_prune.signature.v1"
_LARGEST_BLOCK = 1 << 31


def size(recipe: SignatureRecipe) -> int:
    """Return the bytes of a recipe's vectors, which a file undercuts by about a fifth."""
    return sum(4 * vector.numel() for by_leader in recipe.vectors.values() for vector in by_leader.values())


def save_recipe(recipe: SignatureRecipe, path: Path, mask: Mask) -> int:
    """Write a recipe as safetensors (all or nothing), with the digest of its ``mask``; return its bytes."""
    groups: dict[str, list[str]] = {leader: [leader] for leader in recipe.leader.values()}
    for name, leader in recipe.leader.items():
        if name != leader:
            groups[leader].append(name)
    sizes = {leader: len(vector) for leader, vector in next(iter(recipe.vectors.values())).items()}
    manifest = {
        "format": FORMAT,
        "model_fingerprint": recipe.model_fingerprint,
        "method": {"kind": type(recipe.method).__name__, **asdict(cast(Any, recipe.method))},
        "groups": [[sizes[leader], names] for leader, names in groups.items()],
        "mask_digest": mask_digest(mask),
        "description": dict(recipe.description),
    }
    tensors = {key: pack_floats(by_leader[leader] for leader in groups) for key, by_leader in recipe.vectors.items()}
    return save_persona_file(path, tensors, manifest)


def load_recipe(path: Path, manifest: FileManifest) -> SignatureRecipe:
    """Read a persona file whose manifest has this module's format; raise ValueError if it is damaged."""
    with open_persona_file(path) as (file, _):
        method = _method(manifest.get("method"))
        sizes, leader = _groups(manifest.get("groups"))
        if not isinstance(manifest.get("mask_digest"), str):
            raise ValueError("its manifest has no mask_digest")
        stored = read_tensors(file, checksum=True)
        if stored.keys() != statistics_read(method):
            raise ValueError(f"its tensors are not what {method.name} reads")
        vectors = {
            key: dict(zip(sizes, unpack_floats(tensor, list(sizes.values())), strict=True))
            for key, tensor in stored.items()
        }
        return SignatureRecipe(method, vectors, leader, manifest["model_fingerprint"], dict(manifest["description"]))


def _method(settings: object) -> Method:
    if not isinstance(settings, dict) or settings.get("kind") not in REBUILDABLE:
        raise ValueError("its manifest names no method that this version rebuilds masks of")
    kind = REBUILDABLE[settings["kind"]]
    method = kind(**{key: value for key, value in settings.items() if key != "kind"})
    if cast(Method, method).block(1) > _LARGEST_BLOCK:
        raise ValueError("block_columns is larger than any Linear")
    return cast(Method, method)


def _groups(stored: object) -> tuple[dict[str, int], dict[str, str]]:
    """Return in_features by each group's first Linear, and the first Linear of each one's group."""
    if not isinstance(stored, list) or not stored:
        raise ValueError("its manifest names no groups of Linears")
    sizes: dict[str, int] = {}
    leader: dict[str, str] = {}
    for group in stored:
        size, names = group
        if not isinstance(names, list) or not names:
            raise ValueError("a group names no Linears")
        for name in names:
            check_name(name)
            if name in leader:
                raise ValueError(f"{name} is in two groups")
            leader[name] = names[0]
        (sizes[names[0]],) = checked_shape(names[0], [size])
    return sizes, leader
