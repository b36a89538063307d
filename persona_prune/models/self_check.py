"""Which layout of rows a model is right in: two short rows in each, against one sequence at a time.

A 4-D mask and restarted positions isolate packed answers only where every layer obeys them. Recurrent, convolutional
and ALiBi layers don't; multi-head latent attention expands what it has cached once more, so that its Linears read other
tokens than the row's. What a model's name is says little of that: the model itself is asked.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from persona_prune.models.passes import Prefix, forward
from persona_prune.models.rows import Batch, Row, apart, pack

log = logging.getLogger(__name__)

Layout = Literal["shared prefix", "packed", "padded", "alone"]
"""From fastest to slowest: with a shared prefix, packed, one answer a row, one sequence at a time."""

_FAILURES = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What models raise that can't be run in some layout."""

_ROUNDING = {True: (1e-3, 1e-3), False: (0.5, 0.15)}
"""What rounding may change, in float32 and in half precision: a log-probability (nats); what a Linear reads (relative).

bf16 against float32 makes 0.1 and 0.05 of it in a trained model. A Linear behind a layer that sees other answers or
positions is 0.2 to 3 off: in half precision, that tells more.
"""

_LEAK = 0.02  # nats that an answer may depend on what follows it, in half precision
_SHARED = 4  # tokens, of the prompts below


@dataclass(frozen=True)
class Found:
    """What the check found.

    Attributes:
        layout: the fastest that gives what single sequences give.
        mixed: names of the Linears that don't read one vector a token, in order, such as experts that tokens are routed
            to: statistics by token can't be had of them.
    """

    layout: Layout
    mixed: frozenset[str]


@dataclass(frozen=True)
class _Seen:
    """What a layout gives, branch by branch.

    Attributes:
        log_probs: of the answer tokens, ``[branches][tokens]``.
        read: by Linear, the sums ``[branches, in_features]`` of its inputs, and how large such sums may be; None where
            its inputs are not as many as the tokens.
    """

    log_probs: tuple[Tensor, ...]
    read: Mapping[str, tuple[Tensor, Tensor] | None]

    def part(self, branches: slice) -> "_Seen":
        read = {name: own and (own[0][branches], own[1][branches]) for name, own in self.read.items()}
        return _Seen(self.log_probs[branches], read)


@torch.no_grad()  # not inference mode: what a model keeps from its first pass must serve gradients, too
def find_layout(model: Any) -> Found:
    """Ask ``model`` in every layout, fastest last: four short passes for a model that is right in all of them.

    Raises:
        ValueError: the model's tokens see later ones, or it gives other figures each time: no layout is right.
    """
    rounding, misreading = _ROUNDING[torch.finfo(model.dtype).eps < 1e-5]
    rows, sequences = _probe(model)
    kept = [len(branch) for row in rows for branch in row.branches]
    # All as long as each other, so that nothing is padded. The last one has the last but one's answer, and then others.
    alone = _seen(model, _batch(model, sequences, "padded"), [*kept, kept[-1]])
    expected, before, after = (alone.part(branches) for branches in (slice(4), slice(3, 4), slice(4, 5)))
    if not all(torch.isfinite(values).all() for values in alone.log_probs):
        log.info("%s gives figures that are not finite: rows are asked one sequence at a time", type(model).__name__)
        return Found("alone", frozenset())
    compared = {name: _misread(name, before, after) for name, own in alone.read.items() if own is not None}
    reading = [name for name, far in compared.items() if far <= misreading]
    # Of one batch and one shape, so that rounding is the same: causal models give the same bits.
    leaking = min(rounding, _LEAK)
    if _nats(before, after) > leaking or 2 * len(reading) < len(compared):
        again = _seen(model, _batch(model, sequences, "padded"), [*kept, kept[-1]])
        why = (
            "gives other figures each time it is asked: none of them would mean anything"
            if _nats(alone, again) > leaking
            else "lets tokens see those that follow them, so that it knows an answer before it gives it: only causal "
            "language models can be measured"
        )
        raise ValueError(f"{type(model).__name__} {why}")

    def wrong(layout: Layout) -> str | None:
        try:
            seen = _in_layout(model, rows, layout, kept)
        except _FAILURES as error:
            return f"it can't be asked so: {type(error).__name__}"
        if not _nats(expected, seen) <= rounding:
            return f"off by {_nats(expected, seen):.2g} nats"
        misread = [name for name in reading if not _misread(name, expected, seen) <= misreading]
        return f"{misread[0]} reads other tokens" if misread else None

    layout: Layout = "shared prefix"
    reasons = {}
    if reason := wrong("packed"):
        reasons["answers of one prompt can't share a row"] = reason
        layout = "padded"
        if reason := wrong("padded"):
            reasons["rows can't be padded"] = reason
            layout = "alone"
    elif reason := wrong("shared prefix"):
        reasons["prompts can't share what they begin with"] = reason
        layout = "packed"
    if reasons:
        told = "; ".join(f"{what} ({why})" for what, why in reasons.items())
        log.info("%s: %s: slower, and right", type(model).__name__, told)
    return Found(layout, frozenset(alone.read) - frozenset(reading))


def _probe(model: Any) -> tuple[list[Row], list[Row]]:
    """Return two rows of two branches, and five sequences, longer by a tail: the four, and the last with another."""
    config = model.config.get_text_config()
    special = {
        number
        for key, value in (*model.config.to_dict().items(), *config.to_dict().items())
        if "token" in key or key.endswith("_index")
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, int)
    }
    # Far from each other, as tokens that are alike would hide what is mistaken for what.
    step = max(1, int(config.vocab_size * 0.381966))
    numbers = (number * step % config.vocab_size for number in itertools.count(1))
    tokens = (number for number in numbers if number not in special)

    def take(count: int) -> tuple[int, ...]:
        return tuple(itertools.islice(tokens, count))

    start = take(_SHARED)
    rows = [Row(start + take(2), (take(3), take(2))), Row(start + take(1), (take(4), take(2)))]
    answers = [(row.prompt, branch) for row in rows for branch in row.branches]
    length = 1 + max(len(prompt) + len(branch) for prompt, branch in answers)
    return rows, [
        Row(prompt, (branch + take(length - len(prompt) - len(branch)),)) for prompt, branch in [*answers, answers[-1]]
    ]


def _batch(model: Any, rows: Sequence[Row], layout: Layout) -> Batch:
    pad = rows[0].prompt[-1]
    return pack(rows, pad, model.device) if layout == "packed" else apart(rows, pad, model.device, alone=False)


def _in_layout(model: Any, rows: Sequence[Row], layout: Layout, kept: Sequence[int]) -> _Seen:
    if layout != "shared prefix":
        return _seen(model, _batch(model, rows, layout), kept)
    rest = [Row(row.prompt[_SHARED:], row.branches) for row in rows]
    return _seen(model, _batch(model, rest, "packed"), kept, Prefix(model, rows[0].prompt[:_SHARED]))


def _seen(model: Any, batch: Batch, kept: Sequence[int], prefix: Prefix | None = None) -> _Seen:
    """Run a batch and look at the first ``kept`` tokens of every branch, the branches in order."""
    lengths = [len(branch) for row in batch.rows for branch in row.branches]
    wanted = torch.cat([torch.arange(length) < count for length, count in zip(lengths, kept, strict=True)])
    answers = (batch.branch >= 0).flatten().nonzero()[:, 0].cpu()
    tokens = answers[wanted]
    branches = torch.arange(len(kept)).repeat_interleave(torch.tensor(kept))
    read: dict[str, tuple[Tensor, Tensor] | None] = {}

    def keep(name: str, inputs: Tensor) -> None:
        flat = inputs.flatten(0, -2)
        if len(flat) != batch.branch.numel():
            read[name] = None
            return
        chosen = flat[tokens].float()
        sums = chosen.new_zeros(len(kept), chosen.shape[1]).index_add_(0, branches.to(flat.device), chosen)
        sizes = sums.new_zeros(len(kept)).index_add_(0, branches.to(flat.device), chosen.norm(dim=1))
        earlier = read.get(name, (torch.zeros_like(sums), torch.zeros_like(sizes)))
        read[name] = earlier and (earlier[0] + sums, earlier[1] + sizes)

    with ExitStack() as hooks:
        head = model.get_output_embeddings()
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and module is not head:
                hook = module.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
                hooks.callback(hook.remove)
        logits = forward(model, batch, prefix)[wanted]
    labels = batch.labels[wanted].to(logits.device)
    log_probs = logits.float().log_softmax(-1).gather(1, labels[:, None])[:, 0].cpu()
    return _Seen(torch.split(log_probs, list(kept)), read)


def _nats(expected: _Seen, seen: _Seen) -> float:
    """Return the largest difference of log-probabilities."""
    return max(float((one - other).abs().max()) for one, other in zip(expected.log_probs, seen.log_probs, strict=True))


def _misread(name: str, expected: _Seen, seen: _Seen) -> float:
    """Return how far a Linear's inputs are from the expected ones, relative to their size; infinite without any."""
    one, other = expected.read[name], seen.read.get(name)
    if one is None or other is None:
        return float("inf")
    return float(((one[0] - other[0]).norm(dim=1) / one[1].clamp(min=1e-9)).max())
