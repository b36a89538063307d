"""Order statistics of rows."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_VALUES_PER_THREAD = 1 << 18


def kth_largest(values: Tensor, k: int) -> Tensor:
    """Return the ``k``-th largest value of every row of ``[rows, columns]``, as ``[rows, 1]``; no NaN, 1 = largest.

    On the CPU numpy's vectorised selection is several times faster than `torch.kthvalue`; the value is the same.
    """
    rows, columns = values.shape
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64, torch.int64):
        return values.kthvalue(columns - k + 1, dim=1, keepdim=True).values
    array, at = values.detach().numpy(), columns - k

    def select(part: NDArray[Any]) -> NDArray[Any]:
        return np.partition(part, at, axis=1)[:, at : at + 1]

    threads = min(torch.get_num_threads(), rows, 1 + values.numel() // _VALUES_PER_THREAD)
    if threads == 1:
        return torch.from_numpy(select(array).copy())
    with ThreadPoolExecutor(threads) as pool:
        return torch.from_numpy(np.concatenate(list(pool.map(select, np.array_split(array, threads)))))
