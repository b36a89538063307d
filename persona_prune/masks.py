"""Binary weight masks: selection by row, storage in about their entropy, comparison."""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from persona_prune import mask_coding
from persona_prune.persona_files import FileManifest as FileManifest
from persona_prune.persona_files import check_name, checked_shape, read_tensors, save_persona_file
from persona_prune.persona_files import open_persona_file as open_persona_file
from persona_prune.ranking import at_least_kth

FORMAT = "persona_prune.mask.v2"
_PLAIN = "persona_prune.mask.v1"  # bits as they are, and no checksum
FORMATS = (FORMAT, _PLAIN)
"""Formats that `load_mask` reads: files of a mask itself, not of what it is made from."""

TieBreak = Callable[[Tensor], Tensor]
"""``tie_break(rows)`` -> what decides between equal scores of the rows that a bool ``[out_features]`` chooses,
``[chosen, in_features]``: the larger is kept. Asked only where scores are equal; an importance, so not negative."""


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

    @property
    def entropy(self) -> float:
        """Bytes that a mask takes at the least of which only each Linear's sparsity is known."""
        return sum(mask_coding.entropy(bits, self.shapes[name][1]) for name, bits in self.bits.items())

    def save(self, path: Path) -> int:
        """Write the mask as safetensors (all or nothing) and return its size in bytes.

        Raises:
            OSError: it can't be written.
        """
        manifest = {
            "format": FORMAT,
            "model_fingerprint": self.model_fingerprint,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "description": dict(self.description),
        }
        tensors = {}
        for name, bits in self.bits.items():
            coding, stored = mask_coding.encode(bits, self.shapes[name][1])
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


def pack_bits(keep: Tensor) -> Tensor:
    """Pack bool ``[out_features, in_features]`` into uint8 ``[out_features, ceil(in_features / 8)]`` on the CPU."""
    return torch.from_numpy(np.packbits(keep.cpu().numpy(), axis=1))


def row_top_k(score: Tensor, tie_break: TieBreak, sparsity: float) -> Tensor:
    """Keep the ``floor((1 - sparsity) * n)`` largest scores of every row (equation 4 of the paper).

    Ties are broken by the larger ``tie_break`` (`methods.base.tie_rule`), then by the lower column index.

    Args:
        score: ``[out_features, in_features]``, larger = keep; no NaN.
        tie_break: of the same weights.
        sparsity: share of each row to drop, in [0, 1).

    Returns:
        bool ``[out_features, in_features]``, True = keep.

    Raises:
        ValueError: ``sparsity`` is out of range, or a score is NaN.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    columns = score.shape[1]
    kept = kept_per_row(columns, sparsity)
    keep, threshold, tied = at_least_kth(score, max(kept, 1))
    if kept in (0, columns):
        return torch.full_like(keep, kept > 0)
    if tied.any():
        keep[tied] = _break_ties(score[tied], tie_break(tied), threshold[tied], kept)
    return keep


def kept_per_row(columns: int, sparsity: float) -> int:
    """Return ``floor((1 - sparsity) * columns)``, immune to the rounding of ``1 - sparsity``."""
    return int((1 - sparsity) * columns + 1e-9)


def _break_ties(score: Tensor, tie_break: Tensor, threshold: Tensor, kept: int) -> Tensor:
    """Return what is kept of rows in which more scores than fit are at least the threshold."""
    # One ranking of all that is above the threshold, of what is equal to it, and of the rest.
    ranked = tie_break.masked_fill(score < threshold, -1.0).masked_fill_(score > threshold, torch.inf)
    keep, least, tied = at_least_kth(ranked, kept)
    if tied.any():
        above, equal = ranked[tied] > least[tied], ranked[tied] == least[tied]
        room = kept - above.sum(1, keepdim=True)
        keep[tied] = above | (equal & (equal.cumsum(1) <= room))
    return keep


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
