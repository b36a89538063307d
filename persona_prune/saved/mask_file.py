"""Persona files that hold a mask's bits, in about their entropy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from persona_prune.masks.mask import Mask
from persona_prune.saved import mask_coding
from persona_prune.saved.container import check_name, checked_shape, open_persona_file, read_tensors, save_persona_file

FORMAT = "persona_prune.mask.v2"
_PLAIN = "persona_prune.mask.v1"  # bits as they are, and no checksum
FORMATS = (FORMAT, _PLAIN)
"""Formats that `load_mask` reads: files of a mask itself, not of what it is made from."""


def save_mask(mask: Mask, path: Path) -> int:
    """Write a mask as safetensors (all or nothing) and return its size in bytes.

    Raises:
        OSError: it can't be written.
    """
    manifest = {
        "format": FORMAT,
        "model_fingerprint": mask.model_fingerprint,
        "shapes": {name: list(shape) for name, shape in mask.shapes.items()},
        "description": dict(mask.description),
    }
    tensors = {}
    for name, bits in mask.bits.items():
        coding, stored = mask_coding.encode(bits, mask.shapes[name][1])
        tensors[f"{coding}/{name}"] = stored
    return save_persona_file(path, tensors, manifest)


def load_mask(path: str | Path) -> Mask:
    """Read a file of a mask.

    Raises:
        OSError: there is no such file.
        ValueError: the file is damaged or not a mask of a format that this version reads.
    """
    with open_persona_file(path) as (file, manifest):
        if manifest["format"] not in FORMATS:
            raise ValueError(f"format {manifest['format']!r}, expected {FORMAT!r}")
        shapes = _shapes(manifest["shapes"])
        stored = read_tensors(file, checksum=manifest["format"] == FORMAT)
        decode = _plain_bits if manifest["format"] == _PLAIN else _decoded
        bits = decode(stored, shapes)
        return Mask(bits, shapes, manifest["model_fingerprint"], dict(manifest["description"]))


def _shapes(stored: Any) -> dict[str, tuple[int, int]]:
    if not isinstance(stored, dict) or not stored:
        raise ValueError("its manifest names no Linears")
    shapes: dict[str, tuple[int, int]] = {}
    for name, shape in stored.items():
        check_name(name)
        rows, columns = checked_shape(name, shape)
        shapes[name] = (rows, columns)
    return shapes


def _decoded(stored: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    codings = {name: coding for coding, _, name in (key.partition("/") for key in stored)}
    if codings.keys() != shapes.keys() or len(stored) != len(shapes):
        raise ValueError("the tensors are not those the manifest names")
    return {
        name: mask_coding.decode(codings[name], stored[f"{codings[name]}/{name}"], *shape)
        for name, shape in shapes.items()
    }


def _plain_bits(stored: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    if stored.keys() != shapes.keys():
        raise ValueError("the tensors are not those the manifest names")
    for name, (rows, columns) in shapes.items():
        if stored[name].shape != (rows, -(-columns // 8)):
            raise ValueError(f"{name} has shape {list(stored[name].shape)}, expected bits of {rows}x{columns}")
        mask_coding.check_padding(stored[name].numpy(), columns)
    return {name: stored[name] for name in shapes}
