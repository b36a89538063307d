"""Order statistics of rows."""

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_VALUES_PER_PART = 1 << 16  # rows that are worked on together fit a core's cache
_NAN = "scores contain NaN: the signature or the weights are not finite (set model.dtype=float32, or mend the weights)"


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


TieBreak = Callable[[Tensor], Tensor]
"""``tie_break(rows)`` -> what decides between equal scores of the rows that a bool ``[out_features]`` chooses,
``[chosen, in_features]``: the larger is kept. Asked only where scores are equal; an importance, so not negative."""


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


def block_top_k(score: Tensor, tie_break: TieBreak, sparsity: float, block_columns: int) -> Tensor:
    """Like `masks.row_top_k`, within every block of ``block_columns`` columns (the last one may be narrower)."""
    columns = score.shape[1]
    if block_columns >= columns:
        return row_top_k(score, tie_break, sparsity)

    def block(first: int) -> Tensor:
        last = first + block_columns
        return row_top_k(score[:, first:last], lambda rows: tie_break(rows)[:, first:last], sparsity)

    return torch.cat([block(first) for first in range(0, columns, block_columns)], dim=1)


def disjoint_top_k(
    score: Tensor, other_score: Tensor, tie_break: TieBreak, other_tie_break: TieBreak, sparsity: float
) -> tuple[Tensor, Tensor]:
    """Keep ``floor((1 - sparsity) n)`` weights of every row for either pole, with the smallest possible overlap.

    A weight belongs to the pole with the larger score (equal scores: to the larger tie-break; equal again: even columns
    to the first pole). A pole keeps its own best weights; one that owns too few takes what the other owns but doesn't
    keep, and only then what the other keeps. Up to half the row the masks are disjoint; beyond, the overlap of a row is
    exactly ``2 K - n``.

    Returns:
        Two bool tensors ``[out_features, in_features]``, True = keep.

    Raises:
        ValueError: ``sparsity`` is out of range, or a score is not finite.
    """
    if not (score.isfinite().all() and other_score.isfinite().all()):
        raise ValueError("scores are not finite: the signature or the weights are not")
    own = score > other_score
    equal = (score == other_score).any(1)
    if equal.any():
        even = torch.arange(score.shape[1], device=score.device) % 2 == 0
        ties, other_ties = tie_break(equal), other_tie_break(equal)
        theirs = (ties > other_ties) | ((ties == other_ties) & even)
        own[equal] |= (score[equal] == other_score[equal]) & theirs
    keeps = _best_of_own(own, score, tie_break, sparsity)
    other_keeps = _best_of_own(~own, other_score, other_tie_break, sparsity)
    return (
        _filled(own, keeps, other_keeps, score, tie_break, sparsity),
        _filled(~own, other_keeps, keeps, other_score, other_tie_break, sparsity),
    )


def _best_of_own(own: Tensor, score: Tensor, tie_break: TieBreak, sparsity: float) -> Tensor:
    """Return the best of what a pole owns of every row, or all of it where that is less than it may keep."""
    keeps = own.clone()
    many = own.sum(1) > kept_per_row(own.shape[1], sparsity)
    if many.any():
        masked = score[many].masked_fill_(~own[many], -torch.inf)
        keeps[many] = row_top_k(masked, _of_chosen(tie_break, many), sparsity)
    return keeps


def _filled(
    own: Tensor, keeps: Tensor, other_keeps: Tensor, score: Tensor, tie_break: TieBreak, sparsity: float
) -> Tensor:
    """Return ``keeps``, filled up where a pole owns less than it may keep: first with what the other doesn't keep."""
    kept = kept_per_row(own.shape[1], sparsity)
    few = own.sum(1) < kept
    if not few.any():
        return keeps
    owned = own[few]
    free = ~owned & ~other_keeps[few]
    # Where all that is free doesn't fill the row, it is kept as surely as what is owned.
    short = (owned.sum(1) + free.sum(1) < kept)[:, None]
    sure = owned | (free & short)
    ranked = score[few].masked_fill_(~(free | short), -torch.inf).masked_fill_(sure, torch.inf)
    chosen = keeps.clone()
    chosen[few] = row_top_k(ranked, _of_chosen(tie_break, few), sparsity)
    return chosen


def _of_chosen(tie_break: TieBreak, chosen: Tensor) -> TieBreak:
    """Return the tie-break of the rows that ``chosen`` is True for, as if there were no others."""

    def of(rows: Tensor) -> Tensor:
        among = chosen.clone()
        among[chosen] = rows
        return tie_break(among)

    return of
