"""Binary weight masks: their bits, how much they drop, and what two of them have in common."""

import functools
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
        return sum(entropy(bits, self.shapes[name][1]) for name, bits in self.bits.items())


def pack_bits(keep: Tensor) -> Tensor:
    """Pack bool ``[out_features, in_features]`` into uint8 ``[out_features, ceil(in_features / 8)]`` on the CPU."""
    return torch.from_numpy(np.packbits(keep.cpu().numpy(), axis=1))


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


def entropy(bits: Tensor, columns: int) -> float:
    """Return the entropy in bytes of one Linear's bits, given how many are set."""
    cells = len(bits) * columns
    kept = int(np.bitwise_count(bits.numpy()).sum(dtype=np.int64))
    shares = np.array([kept, cells - kept]) / cells
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum() * cells / 8)


def mask_digest(mask: Mask) -> str:
    """Return 16 hex digits that identify the bits of a mask."""
    digest = hashlib.sha256()
    for name in sorted(mask.bits):
        digest.update(name.encode())
        digest.update(mask.bits[name].numpy().tobytes())
    return digest.hexdigest()[:16]
