"""Binary weight masks: selection by row, bit-packed storage, comparison."""

import functools
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)

FORMAT = "persona_prune.mask.v1"


@dataclass(frozen=True)
class Mask:
    """Which weights to keep, by Linear.

    Attributes:
        bits: Linear name -> uint8 ``[out_features, ceil(in_features / 8)]``, first column in the highest bit, 1 = keep.
        shapes: Linear name -> ``(out_features, in_features)``.
        model_fingerprint: of the model whose weights it selects (`models.fingerprint`).
        description: what made it: method, sparsity, persona, data hash; plain JSON values.
    """

    bits: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, int]]
    model_fingerprint: str
    description: Mapping[str, object]

    def keep(self, name: str) -> Tensor:
        """Return the keep mask of one Linear as bool ``[out_features, in_features]`` on the CPU."""
        columns = self.shapes[name][1]
        unpacked = np.unpackbits(self.bits[name].numpy(), axis=1, count=columns)
        return torch.from_numpy(unpacked).view(torch.bool)

    @property
    def weights(self) -> int:
        """Number of weights the mask covers."""
        return sum(rows * columns for rows, columns in self.shapes.values())

    @property
    def sparsity(self) -> float:
        """Share of the covered weights that are dropped, in [0, 1]."""
        return 1.0 - sum(_ones(bits) for bits in self.bits.values()) / self.weights

    def sparsity_of(self, name: str) -> float:
        """Share of one Linear's weights that are dropped."""
        rows, columns = self.shapes[name]
        return 1.0 - _ones(self.bits[name]) / (rows * columns)

    def save(self, path: Path) -> int:
        """Write the mask as safetensors (all or nothing) and return its size in bytes."""
        manifest = {
            "format": FORMAT,
            "model_fingerprint": self.model_fingerprint,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "description": dict(self.description),
        }
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        save_file(dict(self.bits), partial, metadata={"manifest": json.dumps(manifest)})
        partial.replace(path)
        return path.stat().st_size


FileManifest = Mapping[str, Any]
"""What a persona file says of itself: its format, its model, and what made it."""


@contextmanager
def open_persona_file(path: str | Path) -> Iterator[tuple[Any, FileManifest]]:
    """Open a persona file of any format: yield safetensors' reader and the manifest.

    Raises:
        OSError: there is no such file.
        ValueError: the file is damaged, is no persona file, or the body found it to be damaged.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no persona file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            manifest = json.loads((file.metadata() or {})["manifest"])
            if not isinstance(manifest, dict) or not isinstance(manifest["format"], str):
                raise ValueError("its manifest names no format")
            yield file, manifest
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a readable persona file: {error}") from error


def load_mask(path: str | Path) -> Mask:
    """Read a file of bits.

    Raises:
        OSError: there is no such file.
        ValueError: the file is damaged or not a mask of this format.
    """
    with open_persona_file(path) as (file, manifest):
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}, expected {FORMAT!r}")
        shapes = {name: (int(rows), int(columns)) for name, (rows, columns) in manifest["shapes"].items()}
        if set(shapes) != set(file.keys()):
            raise ValueError("the tensors are not those the manifest names")
        for name, (rows, columns) in shapes.items():
            stored = file.get_slice(name)
            if stored.get_shape() != [rows, -(-columns // 8)] or stored.get_dtype() != "U8":
                raise ValueError(f"{name} has shape {stored.get_shape()}, expected bits of {rows}x{columns}")
        bits = {name: file.get_tensor(name) for name in shapes}
        return Mask(bits, shapes, str(manifest["model_fingerprint"]), dict(manifest["description"]))


def pack_bits(keep: Tensor) -> Tensor:
    """Pack bool ``[out_features, in_features]`` into uint8 ``[out_features, ceil(in_features / 8)]`` on the CPU."""
    return torch.from_numpy(np.packbits(keep.cpu().numpy(), axis=1))


def row_top_k(score: Tensor, tie_break: Tensor, sparsity: float) -> Tensor:
    """Keep the ``floor((1 - sparsity) * n)`` largest scores of every row (equation 4 of the paper).

    Ties are broken by the larger ``tie_break`` (the Wanda importance of the weight), then by the lower column index.

    Args:
        score: ``[out_features, in_features]``, larger = keep; no NaN.
        tie_break: same shape, not negative.
        sparsity: share of each row to drop, in [0, 1).

    Returns:
        bool ``[out_features, in_features]``, True = keep.

    Raises:
        ValueError: ``sparsity`` is out of range, or a score is NaN.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    if score.isnan().any():
        raise ValueError("scores contain NaN: the signature or the weights are not finite")
    columns = score.shape[1]
    kept = kept_per_row(columns, sparsity)
    if kept == columns:
        return torch.ones_like(score, dtype=torch.bool)
    if kept == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    threshold = score.kthvalue(columns - kept + 1, dim=1, keepdim=True).values
    keep = score >= threshold
    tied = keep.sum(1) > kept
    if tied.any():
        keep[tied] = _break_ties(score[tied], tie_break[tied], threshold[tied], kept)
    return keep


def kept_per_row(columns: int, sparsity: float) -> int:
    """Return ``floor((1 - sparsity) * columns)``, immune to the rounding of ``1 - sparsity``."""
    return int((1 - sparsity) * columns + 1e-9)


def _break_ties(score: Tensor, tie_break: Tensor, threshold: Tensor, kept: int) -> Tensor:
    above = score > threshold
    at = score == threshold
    room = kept - above.sum(1, keepdim=True)
    # Stable, so that equal importances stay in column order.
    order = tie_break.masked_fill(~at, -1.0).argsort(dim=1, descending=True, stable=True)
    chosen = torch.zeros_like(at)
    within = torch.arange(score.shape[1], device=score.device)[None, :] < room
    chosen.scatter_(1, order, within)
    return above | (chosen & at)


def difference(first: Mask, second: Mask) -> dict[str, float]:
    """Return, by Linear, the share of entries in which two masks differ (Table 2 of the paper).

    Raises:
        ValueError: the masks don't cover the same Linears.
    """
    if dict(first.shapes) != dict(second.shapes):
        raise ValueError("the two masks belong to models of different shape")
    return {
        name: _ones(first.bits[name] ^ second.bits[name]) / (rows * columns)
        for name, (rows, columns) in first.shapes.items()
    }


def jaccard(first: Mask, second: Mask) -> float:
    """Return the Jaccard overlap of the *dropped* weights of two masks; 1.0 if neither drops any (Tables 13, 14)."""
    if dict(first.shapes) != dict(second.shapes):
        raise ValueError("the two masks belong to models of different shape")
    both = either = 0
    for name, (rows, columns) in first.shapes.items():
        total = rows * columns
        kept_by_either = _ones(first.bits[name] | second.bits[name])
        kept_by_both = _ones(first.bits[name] & second.bits[name])
        both += total - kept_by_either
        either += total - kept_by_both
    return both / either if either else 1.0


def drop_all_of(masks: Sequence[Mask], description: Mapping[str, object]) -> Mask:
    """Return the mask that drops whatever any of ``masks``, of one model, drops.

    Raises:
        ValueError: they are of different models.
    """
    first = masks[0]
    if any(dict(mask.shapes) != dict(first.shapes) for mask in masks):
        raise ValueError("the masks belong to models of different shape")
    bits = {name: functools.reduce(torch.bitwise_and, [mask.bits[name] for mask in masks]) for name in first.bits}
    return Mask(bits, first.shapes, first.model_fingerprint, description)


def dropped_like(mask: Mask, seed: int) -> Mask:
    """Return a random mask that drops as many weights in every row as ``mask`` does."""
    bits = {}
    for name, (rows, columns) in mask.shapes.items():
        counts = columns - torch.from_numpy(np.bitwise_count(mask.bits[name].numpy()).sum(1, dtype=np.int64))
        most = int(counts.max())
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
        drawn = torch.rand(rows, columns, generator=generator).topk(most, dim=1).indices
        keep = torch.ones(rows, columns, dtype=torch.bool)
        keep.scatter_(1, drawn, torch.arange(most)[None, :] >= counts[:, None])
        bits[name] = pack_bits(keep)
    return Mask(bits, mask.shapes, mask.model_fingerprint, {"method": "random", "seed": seed})


def _ones(bits: Tensor) -> int:
    return int(np.bitwise_count(bits.numpy()).sum(dtype=np.int64))
