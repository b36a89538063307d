"""The bits of a mask in about as many bytes as their entropy, and back.

Huffman codes (deflate without its search for repetitions) of the bytes of bits or, where few weights are dropped or few
are kept, of the gaps between them. A Huffman code takes a bit at the least, so that nothing can grow to more than eight
times its stored size: a small file that claims to be large is refused before memory is taken for it.
"""

import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_RARE = 1 / 12  # share of weights below which gaps take less than bits
_ESCAPE = 255
GROWTH = 8
"""How many times its stored size a code can grow to."""

Bytes = NDArray[np.uint8]


def encode(bits: Tensor, columns: int) -> tuple[str, Tensor]:
    """Return how the bits of one Linear are best coded, and the code.

    Args:
        bits: as in `masks.Mask`, uint8 ``[out_features, ceil(columns / 8)]``.
        columns: its in_features.

    Returns:
        ``bits``; ``dropped`` or ``kept`` for the gaps between those weights; and uint8 ``[any]``.
    """
    packed = bits.numpy()
    cells = len(packed) * columns
    kept = int(np.bitwise_count(packed).sum(dtype=np.int64))
    if min(kept, cells - kept) >= _RARE * cells:
        return "bits", deflate(packed)
    coding, value = ("kept", 1) if 2 * kept < cells else ("dropped", 0)
    marked = np.flatnonzero(np.unpackbits(packed, axis=1, count=columns) == value)
    return coding, deflate(_gaps(marked, cells))


def decode(coding: str, stored: Tensor, rows: int, columns: int) -> Tensor:
    """Return the bits that `encode` was given, uint8 ``[rows, ceil(columns / 8)]``.

    Raises:
        ValueError: ``stored`` is no code of that many weights.
    """
    width = -(-columns // 8)
    if coding == "bits":
        packed = inflate(stored, rows * width)
        if len(packed) != rows * width:
            raise ValueError(f"{len(packed)} bytes of bits, expected {rows}x{width}")
        packed = packed.reshape(rows, width)
        check_padding(packed, columns)
    elif coding in ("dropped", "kept"):
        marked = _positions(inflate(stored, rows * columns + 1), rows * columns)
        if columns % 8:
            marked += marked // columns * (-columns % 8)
        packed = np.zeros(rows * width, np.uint8)
        # No bit is there twice, so that adding sets it.
        np.add.at(packed, marked >> 3, np.uint8(128) >> (marked & 7).astype(np.uint8))
        packed = packed.reshape(rows, width)
        if coding == "dropped":
            packed ^= 255
            packed[:, -1] &= 255 << (width * 8 - columns) & 255
    else:
        raise ValueError(f"coding {coding!r} is not one of bits, dropped, kept")
    return torch.from_numpy(packed)


def check_padding(packed: Bytes, columns: int) -> None:
    """Raise ValueError if there are bits beyond the last column."""
    if (packed[:, -1] & ((1 << (-columns % 8)) - 1)).any():
        raise ValueError("there are bits beyond the last column")


def deflate(raw: NDArray[Any]) -> Tensor:
    """Return the bytes of an array as Huffman codes, uint8 ``[any]``."""
    packer = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    packed = packer.compress(np.ascontiguousarray(raw).data) + packer.flush()
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def inflate(stored: Tensor, longest: int) -> Bytes:
    """Return the bytes that `deflate` was given, at most ``longest``.

    Raises:
        ValueError: ``stored`` is damaged, or holds more.
    """
    packed = stored.numpy()
    if packed.ndim != 1:
        raise ValueError("a code must have one dimension")
    longest = min(longest, GROWTH * len(packed))
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(packed.data, longest + 1)
    except zlib.error as error:
        raise ValueError(f"a code is damaged: {error}") from None
    if len(raw) > longest or not unpacker.eof or unpacker.unused_data:
        raise ValueError("a code is longer or shorter than it may be")
    return np.frombuffer(bytearray(raw), np.uint8)


def _gaps(marked: NDArray[np.int64], cells: int) -> Bytes:
    """Return the numbers of unmarked weights before each of ``marked``, and after the last.

    255 stands for that many, and goes on.
    """
    runs = np.diff(marked, prepend=-1, append=cells) - 1
    escapes = runs // _ESCAPE
    gaps = np.full(len(runs) + int(escapes.sum()), _ESCAPE, np.uint8)
    gaps[np.cumsum(escapes + 1) - 1] = runs % _ESCAPE
    return gaps


def _positions(gaps: Bytes, cells: int) -> NDArray[np.int64]:
    ends = gaps < _ESCAPE
    marked = np.cumsum(gaps.astype(np.int64) + ends)[ends] - 1
    if not len(gaps) or not ends[-1] or marked[-1] != cells:
        raise ValueError(f"the gaps do not add up to {cells} weights")
    positions: NDArray[np.int64] = marked[:-1]
    return positions
