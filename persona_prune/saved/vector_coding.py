"""Vectors as bytes: codes and floats, compressed by their entropy, and back."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persona_prune.saved.mask_coding import GROWTH, deflate, inflate


def pack_codes(codes: Iterable[Tensor]) -> Tensor:
    """Return codes of any shapes, one after the other, compressed: uint8 ``[any]``."""
    return deflate(torch.cat([part.reshape(-1) for part in codes]).numpy())


def unpack_codes(stored: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return what `pack_codes` was given.

    Raises:
        ValueError: ``stored`` is damaged, or not of these shapes.
    """
    sizes = [rows * columns for rows, columns in shapes]
    raw = _inflated(stored, sum(sizes))
    parts = torch.split(torch.from_numpy(raw), sizes)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def pack_floats(vectors: Iterable[Tensor]) -> Tensor:
    """Return float32 vectors, exactly, byte by byte: exponents are alike, and take less together."""
    values = torch.cat(list(vectors)).numpy().astype("<f4")
    return deflate(values.view(np.uint8).reshape(-1, 4).T)


def check_floats(count: int, stored: Sequence[int]) -> None:
    """Raise ValueError if a tensor of shape ``stored`` can't hold that many values for `unpack_floats`."""
    if len(stored) != 1 or 4 * count > GROWTH * stored[0]:
        raise ValueError(f"it has not as many vectors as it names: {count}")


def unpack_floats(stored: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Return what `pack_floats` was given, for values that are finite and not negative.

    Raises:
        ValueError: ``stored`` is damaged, or not of these sizes, or holds other values.
    """
    raw = _inflated(stored, 4 * sum(sizes))
    values = torch.from_numpy(np.ascontiguousarray(raw.reshape(4, -1).T).view("<f4")[:, 0].astype(np.float32))
    if not values.isfinite().all() or (values < 0).any():
        raise ValueError("its vectors are not finite numbers of at least 0")
    return torch.split(values, list(sizes))


def _inflated(stored: Tensor, size: int) -> NDArray[Any]:
    raw = inflate(stored, size)
    if len(raw) != size:
        raise ValueError(f"{len(raw)} bytes of vectors, expected {size}")
    return raw
