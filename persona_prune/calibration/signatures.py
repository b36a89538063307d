"""Activation signatures: streaming statistics of what enters each Linear, for all answers of a prompt at once."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from persona_prune.common.validation import Positions
from persona_prune.models.packing import check_by_token, laid_out, split_prefix
from persona_prune.models.passes import Prefix, forward
from persona_prune.models.rows import Batch, Row

VERSION = 5  # raise it whenever statistics, or masks made from them, come out differently, so that none is reused


@dataclass(frozen=True)
class Statistics:
    """Statistics of one Linear's input, each ``[in_features]`` float32 on the CPU.

    Attributes:
        mean: mean over tokens of ``x``.
        mean_abs: mean over tokens of ``|x|`` (equation 2 of the paper).
        mean_square: mean over tokens of ``x^2`` (the diagonal of equation 5).
        sequence_mean: mean over sequences of the root mean square of ``x`` over the sequence's tokens.
        sequence_variance: variance (population) over sequences of the same.
    """

    mean: Tensor
    mean_abs: Tensor
    mean_square: Tensor
    sequence_mean: Tensor
    sequence_variance: Tensor


@dataclass(frozen=True)
class Signature:
    """Statistics by Linear, with what they were taken from.

    ``statistics`` is keyed by one Linear of each group that reads the same tensor (q, k, v; gate, up); ``leader`` maps
    every Linear to that key.
    """

    statistics: Mapping[str, Statistics]
    leader: Mapping[str, str]
    model_fingerprint: str
    data_hash: str
    positions: Positions
    tokens: int
    sequences: int

    def __getitem__(self, linear: str) -> Statistics:
        return self.statistics[self.leader[linear]]


class _Accumulator:
    """Running sums for one pole and one input, in float64 (float32 on devices without it)."""

    def __init__(self, features: int, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(5, features, dtype=wide, device=device)

    def add(self, values: Tensor, sequence: Tensor, lengths: Tensor) -> None:
        """Add tokens ``values [tokens, features]`` that belong to ``sequence [tokens]`` of ``lengths [sequences]``."""
        squares = values.square()
        per_sequence = torch.zeros(len(lengths), values.shape[1], device=values.device)
        per_sequence.index_add_(0, sequence, squares)
        norms = (per_sequence / lengths[:, None]).sqrt().to(self.sums.dtype)
        self.sums[0] += values.sum(0)
        self.sums[1] += values.abs().sum(0)
        self.sums[2] += squares.sum(0)
        self.sums[3] += norms.sum(0)
        self.sums[4] += norms.square().sum(0)


@contextmanager
def input_hooks(linears: Mapping[str, nn.Linear], observe: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``observe(name, input)`` whenever one of ``linears`` runs; hooks are removed on exit, however it happens."""
    handles = []
    try:
        for name, module in linears.items():

            def hook(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                observe(name, inputs[0])

            handles.append(module.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def shared_inputs(model: Any, linears: Mapping[str, nn.Linear]) -> dict[str, str]:
    """Return, for every Linear, the first Linear that reads the same tensor (itself, if it is the first).

    Raises:
        ValueError: a Linear is not reached by a forward pass, so its activations cannot be read.
    """
    seen: dict[int, tuple[str, Tensor]] = {}  # keeps the tensors alive, so that ids stay unique
    leader: dict[str, str] = {}

    def observe(name: str, tensor: Tensor) -> None:
        leader[name] = seen.setdefault(id(tensor), (name, tensor))[0]

    with input_hooks(linears, observe):
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    missing = [name for name in linears if name not in leader]
    if missing:
        raise ValueError(f"no activation reached {missing[0]} (and {len(missing) - 1} other Linears)")
    return leader


@torch.inference_mode()
def collect(
    model: Any,
    linears: Mapping[str, nn.Linear],
    rows: Sequence[Row],
    *,
    pad_id: int,
    batch_size: int,
    positions: Positions,
    model_fingerprint: str,
    data_hash: str,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> tuple[Signature, ...]:
    """Return one signature for each branch of ``rows`` (target and contrast, for pairs), from one pass over them.

    Raises:
        ValueError: there are no rows, or a Linear is never reached or doesn't read one vector a token.
    """
    if not rows:
        raise ValueError("no calibration pairs: a signature needs at least one")
    check_by_token(model, linears)
    poles = range(len(rows[0].branches))
    leader = shared_inputs(model, linears)
    leaders = {name: linears[name] for name in linears if leader[name] == name}
    sums = {
        name: [_Accumulator(module.in_features, module.weight.device) for _ in poles]
        for name, module in leaders.items()
    }
    selected: list[tuple[Tensor, Tensor, Tensor]] = []
    uses, passes = Counter[str](), 0

    def observe(name: str, tensor: Tensor) -> None:
        uses[name] += 1
        flat = tensor.flatten(0, -2)
        for accumulator, (index, sequence, lengths) in zip(sums[name], selected, strict=True):
            index, sequence, lengths = (t.to(flat.device) for t in (index, sequence, lengths))
            accumulator.add(flat.index_select(0, index).float(), sequence, lengths)

    tokens = [0 for _ in poles]
    shared: tuple[int, ...] = ()
    if positions == "response":
        shared, rows = split_prefix(model, rows)
    prefix = Prefix(model, shared) if shared else None
    with input_hooks(leaders, observe):
        for indices, batch in laid_out(model, rows, pad_id=pad_id, batch_size=batch_size):
            for part in batch.parts():
                selected[:] = [_positions(part, pole, positions) for pole in poles]
                passes += 1
                for pole in poles:
                    tokens[pole] += len(selected[pole][0])
                # Hooks read the inputs; of the logits, the fewest that a pass can make.
                forward(model, replace(part, sources=part.sources[:1]), prefix)
            on_batch(len(indices))
    return tuple(
        Signature(
            {
                # A block that several layers share runs several times a pass.
                name: _statistics(pair[pole].sums * (passes / uses[name]), tokens[pole], len(rows))
                for name, pair in sums.items()
            },
            leader,
            model_fingerprint,
            data_hash,
            positions,
            tokens[pole],
            len(rows),
        )
        for pole in poles
    )


def merged(parts: Sequence[tuple[Signature, ...]], data_hash: str) -> tuple[Signature, ...]:
    """Return the signatures of several sets of rows together, branch by branch, as if from one pass over all of them.

    But for rounding: the means of each are float32. Raises ValueError for sets of different models or positions.
    """
    if len({(part[0].model_fingerprint, part[0].positions) for part in parts}) > 1:
        raise ValueError("signatures of different models, or of different positions, can't be merged")
    return parts[0] if len(parts) == 1 else tuple(_merged(same, data_hash) for same in zip(*parts, strict=True))


def _merged(parts: Sequence[Signature], data_hash: str) -> Signature:
    tokens, sequences = sum(part.tokens for part in parts), sum(part.sequences for part in parts)
    statistics = {}
    for name in parts[0].statistics:
        sums = torch.zeros(5, len(parts[0].statistics[name].mean), dtype=torch.float64)
        for part in parts:
            own = part.statistics[name]
            sums[:3] += part.tokens * torch.stack([own.mean, own.mean_abs, own.mean_square]).double()
            norm = own.sequence_mean.double()
            sums[3] += part.sequences * norm
            sums[4] += part.sequences * (own.sequence_variance.double() + norm.square())
        statistics[name] = _statistics(sums, tokens, sequences)
    return replace(parts[0], statistics=statistics, data_hash=data_hash, tokens=tokens, sequences=sequences)


def _statistics(sums: Tensor, tokens: int, sequences: int) -> Statistics:
    """Return the statistics of the sums that an `_Accumulator` keeps."""
    mean, mean_abs, mean_square = sums[:3] / tokens
    norm, square = sums[3:] / sequences
    variance = (square - norm.square()).clamp(min=0)
    return Statistics(*(t.float().cpu() for t in (mean, mean_abs, mean_square, norm, variance)))


def _positions(batch: Batch, pole: int, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
    """Return flat token indices, the row of each, and the number of tokens by row, for one pole of a batch.

    Rows are those that have the pole, counted from 0.
    """
    chosen = batch.branch == pole
    held = chosen.any(1)
    if positions == "all":
        chosen = chosen | ((batch.branch == -1) & held[:, None])
    return chosen.flatten().nonzero()[:, 0], chosen[held].nonzero()[:, 0], chosen.sum(1)[held]
