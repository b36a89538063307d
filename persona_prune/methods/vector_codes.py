"""Vectors in about half a byte a value: what a recipe stores of gradients and of damage.

Gradients are replaced by a few of their singular vectors anyway, which loses far more than a coarse scale does; masks
are computed from what is stored, so that nothing is lost once a mask was evaluated. Codes are compressed by their
entropy (`mask_coding.deflate`).
"""

import torch
from torch import Tensor

_LEVELS = 15
_PER_OCTAVE = 8
_ZERO = 255
# Tables, and one product each, give the same bits everywhere.
_SIGNED = torch.tensor([(1 if c >= 0 else -1) * (c / _LEVELS) ** 2 for c in range(-_LEVELS, _LEVELS + 1)])
_POSITIVE = torch.tensor([2.0 ** (-c / _PER_OCTAVE) for c in range(_ZERO)] + [0.0])


def signed_codes(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes, and the largest magnitude of every vector: 15 levels either side of zero, finer towards it.

    Args:
        vectors: ``[count, length]`` float32, finite.

    Returns:
        uint8 ``[count, length]`` in 0 to 30, and float32 ``[count]``.
    """
    peaks = vectors.abs().amax(1)
    shares = vectors / peaks.where(peaks > 0, 1.0)[:, None]
    levels = (shares.abs().sqrt() * _LEVELS).round() * shares.sign()
    return (levels + _LEVELS).to(torch.uint8), peaks


def signed_values(codes: Tensor, peaks: Tensor) -> Tensor:
    """Return the vectors that `signed_codes` stands for, ``[count, length]`` float32.

    Raises:
        ValueError: a code is none.
    """
    if codes.numel() and int(codes.max()) > 2 * _LEVELS:
        raise ValueError("a vector holds codes that there are not")
    return _SIGNED[codes.int()] * peaks[:, None]


def positive_codes(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The same for values of at least 0: eighths of octaves below the largest of a vector, 31 octaves deep.

    Raises:
        ValueError: a value is not finite.
    """
    peaks = vectors.amax(1)
    if not peaks.isfinite().all():
        raise ValueError("the statistics of neutral text are not finite: the model overflows in this dtype")
    octaves = -(vectors / peaks.where(peaks > 0, 1.0)[:, None]).log2()
    return (octaves * _PER_OCTAVE).round().clamp(max=_ZERO).to(torch.uint8), peaks


def positive_values(codes: Tensor, peaks: Tensor) -> Tensor:
    """Return the vectors that `positive_codes` stands for, ``[count, length]`` float32."""
    return _POSITIVE[codes.int()] * peaks[:, None]
