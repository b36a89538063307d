"""Order statistics of rows."""

import functools
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_VALUES_PER_PART = 1 << 16  # rows that are worked on together fit a core's cache
_NAN = "scores contain NaN: the signature or the weights are not finite"


def at_least_kth(values: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is at least as large as the ``k``-th largest value of its row.

    On the CPU numpy's vectorised selection, a few rows at a time, is several times faster than `torch.kthvalue`.

    Args:
        values: ``[rows, columns]``.
        k: 1 for the largest.

    Returns:
        bool ``[rows, columns]``; the ``k``-th largest values ``[rows, 1]``; and bool ``[rows]``, True where more than
        ``k`` are chosen.

    Raises:
        ValueError: a value is NaN.
    """
    rows, columns = values.shape
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        if values.isnan().any():
            raise ValueError(_NAN)
        threshold = values.kthvalue(columns - k + 1, dim=1, keepdim=True).values
        chosen = values >= threshold
        return chosen, threshold, chosen.sum(1) > k
    array = values.detach().numpy()
    found = np.empty(array.shape, np.bool_), np.empty((rows, 1), array.dtype), np.empty(rows, np.bool_)
    threads = torch.get_num_threads()
    count = max(1, min(threads, rows, 1 + values.numel() // _VALUES_PER_PART))
    bounds = [rows * i // count for i in range(count + 1)]
    parts = [slice(first, last) for first, last in itertools.pairwise(bounds)]
    work = functools.partial(_select, array, k, *found)
    for _ in _pool(threads).map(work, parts) if count > 1 else map(work, parts):
        pass
    chosen, threshold, more = (torch.from_numpy(part) for part in found)
    return chosen, threshold, more


def _select(
    array: NDArray[Any],
    k: int,
    chosen: NDArray[np.bool_],
    threshold: NDArray[Any],
    more: NDArray[np.bool_],
    part: slice,
) -> None:
    """Do the work of `at_least_kth` for some rows, writing into the last three arrays."""
    columns = array.shape[1]
    height = max(1, _VALUES_PER_PART // columns)
    sorted_enough = np.empty((height, columns), array.dtype)
    for first, last in _steps(part, height):
        few = sorted_enough[: last - first]
        few[:] = array[first:last]
        few.partition(columns - k, axis=1)
        # NaN comes last, and is the largest of whatever it is among.
        if np.isnan(few[:, columns - k :].max(axis=1)).any():
            raise ValueError(_NAN)
        threshold[first:last] = few[:, columns - k : columns - k + 1]
        np.greater_equal(array[first:last], threshold[first:last], out=chosen[first:last])
        # Counting packed bits is faster than counting booleans.
        packed = np.packbits(chosen[first:last], axis=1)
        np.greater(np.bitwise_count(packed).sum(axis=1, dtype=np.int32), k, out=more[first:last])


def _steps(part: slice, height: int) -> Iterator[tuple[int, int]]:
    for first in range(part.start, part.stop, height):
        yield first, min(first + height, part.stop)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="ranking")


# Threads don't survive a fork; a child that waited for them would wait for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)
