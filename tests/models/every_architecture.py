"""What becomes of every type of causal language model: ``python -m tests.models.every_architecture`` counts them."""

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from persona_prune.calibration.gradients import add_gradient, weight_gradients
from persona_prune.calibration.objectives import margin
from persona_prune.calibration.signatures import collect
from persona_prune.models.likelihood import score
from persona_prune.models.loaded import LoadedModel, maskable_linears
from persona_prune.models.packing import packing
from persona_prune.models.rows import Row
from tests.reference import architectures


@dataclass
class Verdict:
    """What a type of model is: right packed, right unpacked, or refused; and the worst errors that were found.

    Attributes:
        layout: how short rows are asked; None where figures are refused.
        refusals: by ``figures``, ``masks`` and ``statistics``, why there are none.
        errors: by what was compared with one sequence at a time, the largest difference, relative to the largest value
            where that is above 1.
    """

    layout: str | None
    refusals: dict[str, str]
    errors: dict[str, float]


def rows(seed: int, prompts: Sequence[int], shared: int) -> list[Row]:
    """Return rows of two answers; their prompts begin with ``shared`` equal tokens and go on with as many as given."""
    numbers = random.Random(seed)

    def take(count: int) -> tuple[int, ...]:
        return tuple(numbers.randrange(3, architectures.VOCABULARY) for _ in range(count))

    start = take(shared)
    return [Row(start + take(length), (take(4), take(2 + i))) for i, length in enumerate(prompts)]


SHARED = rows(0, (3, 2, 5), shared=5)
APART = rows(1, (6, 4), shared=0)
LONG = rows(2, (40, 9, 4), shared=5)  # the first is longer than any window of the tiny models


def verdict(model: Any) -> Verdict:
    """Compare a model's figures, statistics and gradients with those of one sequence at a time."""
    try:
        found = Verdict(packing(model).found.layout, {}, {})
    except ValueError as error:
        return Verdict(None, {"figures": str(error)}, {})
    loaded = LoadedModel("tiny", model, SimpleNamespace(pad_token_id=0), "")
    try:
        linears = maskable_linears(model)
    except ValueError as error:
        linears = {}
        found.refusals["masks"] = str(error)
    for module in linears.values():
        module.weight.requires_grad_(True)
    plain = {name: [_Plain(model, linears, row) for row in group] for name, group in GROUPS.items()}
    for name, group in GROUPS.items():
        scored = score(loaded, group, 2)
        pairs = [(a, b) for own, row in zip(plain[name], scored, strict=True) for a, b in zip(own.log_probs, row)]
        found.errors[f"figures, {name}"] = max(_error(a.detach(), b.log_probs) for a, b in pairs)
    if not linears:
        return found
    group = [*SHARED, *LONG]
    alone = [*plain["shared prefix"], *plain["longer than windows"]]
    value = sum(own.log_probs[0].mean() - own.log_probs[1].mean() for own in alone) / len(group)
    gradients = torch.autograd.grad(value, [m.weight for m in linears.values()], allow_unused=True)
    for module in linears.values():
        module.weight.requires_grad_(False)
    with weight_gradients(linears) as sums:
        add_gradient(model, group, margin, weight=1.0, pad_id=0, batch_size=3)
    zero = torch.zeros(())
    pairs = [(zero if g is None else g, sums[name]) for name, g in zip(linears, gradients, strict=True)]
    found.errors["gradients"] = max(_error(a, b) for a, b in pairs)
    for positions in ("response", "all"):
        try:
            signatures = collect(
                model,
                linears,
                group,
                pad_id=0,
                batch_size=2,
                positions=positions,
                model_fingerprint="",
                data_hash="",
            )
        except ValueError as error:
            found.refusals["statistics"] = str(error)
            break
        worst = 0.0
        for branch, signature in enumerate(signatures):
            for name in linears:
                read = torch.cat([own.read(name, branch, positions) for own in alone])
                worst = max(worst, _error(read.mean(0), signature[name].mean))
                worst = max(worst, _error(read.square().mean(0), signature[name].mean_square))
        found.errors[f"statistics, {positions}"] = worst
    return found


GROUPS = {"shared prefix": SHARED, "nothing shared": APART, "longer than windows": LONG}


class _Plain:
    """A row's answers, each in a sequence of its own, as transformers has them: log-probabilities and inputs."""

    def __init__(self, model: Any, linears: dict[str, Any], row: Row) -> None:
        self.log_probs: list[Tensor] = []
        self._prompt = len(row.prompt)
        self._read: list[dict[str, list[Tensor]]] = []
        for tokens in row.branches:
            read: dict[str, list[Tensor]] = {name: [] for name in linears}
            with ExitStack() as hooks:
                for name, module in linears.items():

                    def keep(_: Any, inputs: tuple[Tensor, ...], name: str = name, read: Any = read) -> None:
                        read[name].append(inputs[0].detach().flatten(0, -2))

                    hooks.callback(module.register_forward_pre_hook(keep).remove)
                logits = model(input_ids=torch.tensor([[*row.prompt, *tokens]]), use_cache=False).logits[0]
            at = logits[len(row.prompt) - 1 : -1].log_softmax(-1)
            self.log_probs.append(at.gather(1, torch.tensor(tokens)[:, None])[:, 0])
            self._read.append(read)

    def read(self, name: str, branch: int, positions: str) -> Tensor:
        first = self._prompt if positions == "response" else 0
        return torch.cat([tensor[first:] for tensor in self._read[branch][name]])


def _error(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max() / max(1.0, float(expected.abs().max())))


def main() -> None:
    """Print what becomes of every type, and how many there are of each."""
    counts: Counter[str] = Counter()
    for kind in architectures.TYPES:
        if kind in architectures.SKIPPED:
            counts["skipped"] += 1
            print(f"{kind}: skipped, {architectures.SKIPPED[kind]}")
            continue
        found = verdict(architectures.tiny(kind))
        packed = found.layout in ("packed", "shared prefix")
        what = "refused" if found.layout is None else "right packed" if packed else "right unpacked"
        counts[what] += 1
        if found.layout and not {"masks", "statistics"} & set(found.refusals):
            counts[f"{what}, with masks from statistics and gradients"] += 1
        worst = max(found.errors.values(), default=0.0)
        print(f"{kind}: {what} ({found.layout}), off by {worst:.0e} at most", *found.refusals.values(), sep="; ")
    print(*(f"{number} {what}" for what, number in sorted(counts.items())), sep="\n")


if __name__ == "__main__":
    main()
