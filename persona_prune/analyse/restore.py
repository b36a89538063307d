"""Which Linears carry a mask's effect: restore a part at a time and see what comes back (Table 7 of the paper)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import false_discovery_control
from torch import Tensor, nn

from persona_prune.evaluators.results import EvalResult
from persona_prune.evaluators.statistics import Comparison, compare, item_values
from persona_prune.masks.applying import check_fits, masked
from persona_prune.masks.mask import Mask
from persona_prune.models.loaded import LoadedModel


@dataclass(frozen=True)
class Sweep:
    """How one figure changes when parts of the model are restored, one at a time.

    Parts interact: their changes need not add up to ``dense - masked``.

    Attributes:
        items: how many items have the figure.
        dense: the figure of the dense model.
        masked: the figure under the whole mask.
        restored: part -> change against ``masked`` with that part dense, paired by item.
        adjusted: part -> p-value adjusted over the sweep (Benjamini and Hochberg 1995).
    """

    items: int
    dense: float
    masked: float
    restored: Mapping[str, Comparison]
    adjusted: Mapping[str, float]


def restore_sweep(
    loaded: LoadedModel,
    mask: Mask,
    parts: Mapping[str, Sequence[str]],
    measure: Callable[[], EvalResult],
    figures: Sequence[str],
    *,
    gamma: float,
    on_part: Callable[[int], object],
) -> dict[str, Sweep]:
    """Return the sweep of every figure.

    Args:
        loaded: the dense model; it is dense again afterwards, bit for bit.
        mask: what is applied, and lifted part by part.
        parts: part -> names of the Linears that are restored together.
        measure: evaluates the model as it stands.
        figures: item metrics of what ``measure`` returns.
        gamma: what dropped weights are multiplied with (`apply.masked`).
        on_part: called with 1 after every part.

    Raises:
        ValueError: no item has one of the figures, one is not finite, or the mask is another model's.
    """
    linears = check_fits(loaded.model, mask, loaded.fingerprint)
    dense = _only(measure(), figures)
    # On the host: `masked` holds the same weights on the device.
    originals = {name: module.weight[_dropped(mask, name, module)].cpu() for name, module in linears.items()}
    results: dict[str, EvalResult] = {}
    with masked(loaded.model, mask, model_fingerprint=loaded.fingerprint, gamma=gamma):
        under_mask = _only(measure(), figures)
        for part, names in parts.items():
            with _restored(linears, mask, originals, names, gamma):
                results[part] = _only(measure(), figures)
            on_part(1)
    compared = {part: compare(result, under_mask) for part, result in results.items()}
    sweeps = {}
    for figure in figures:
        restored = {part: comparisons[figure] for part, comparisons in compared.items()}
        adjusted = false_discovery_control([comparison.p for comparison in restored.values()])
        sweeps[figure] = Sweep(
            len(item_values(dense.samples, figure)),
            dense.means()[figure],
            under_mask.means()[figure],
            restored,
            dict(zip(restored, adjusted.tolist(), strict=True)),
        )
    return sweeps


@contextmanager
def _restored(
    linears: Mapping[str, nn.Linear], mask: Mask, originals: Mapping[str, Tensor], names: Sequence[str], gamma: float
) -> Iterator[None]:
    """Make some Linears of a masked model dense while the body runs."""
    try:
        _write(linears, mask, originals, names, 1.0)
        yield
    finally:
        _write(linears, mask, originals, names, gamma)


@torch.no_grad()
def _write(
    linears: Mapping[str, nn.Linear], mask: Mask, originals: Mapping[str, Tensor], names: Sequence[str], factor: float
) -> None:
    for name in names:
        weight = linears[name].weight
        values = originals[name].to(weight.device)
        # Zeros as `masked` writes them: a product would leave negative ones.
        weight[_dropped(mask, name, linears[name])] = values * factor if factor else torch.zeros_like(values)


def _dropped(mask: Mask, name: str, module: nn.Linear) -> Tensor:
    return mask.keep(name).logical_not_().to(module.weight.device)


def _only(result: EvalResult, figures: Sequence[str]) -> EvalResult:
    """Return the figures of a result alone, so that nothing else is compared."""
    means = result.means()
    for figure in figures:
        if figure not in means:
            raise ValueError(f"no figure {figure!r} among those of the items: {', '.join(means)}")
        if not np.isfinite([*item_values(result.samples, figure).values()]).all():
            raise ValueError(f"{figure} is not finite for every item: the mask wrecks the model")
    return EvalResult(
        [{"id": s["id"], "values": {figure: s["values"][figure] for figure in figures}} for s in result.samples]
    )
