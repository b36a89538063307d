"""The protocol of a method, and the code all methods share: from scores to a mask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor, nn

from persona_prune.masks import Mask, pack_bits, row_top_k
from persona_prune.signatures import Signature, Statistics
from persona_prune.validation import STRICT, Name


@dataclass(frozen=True)
class Layer:
    """What a method may look at when it scores one Linear.

    Attributes:
        name: the Linear's name.
        weight: ``[out_features, in_features]`` float32.
        target, contrast: statistics of its input under the persona's and the opposite's answers.
    """

    name: str
    weight: Tensor
    target: Statistics
    contrast: Statistics


class Method(Protocol):
    """What a YAML in ``conf/method`` builds."""

    name: Name

    @property
    def sparsity(self) -> float:
        """Share of every row to drop, in [0, 1)."""

    @property
    def gamma(self) -> float:
        """What dropped weights are multiplied with (equation 7)."""

    def score(self, layer: Layer) -> Tensor:
        """Return scores ``[out_features, in_features]``, larger = keep."""


@pydantic_dataclass(frozen=True, kw_only=True, config=STRICT)
class NoMask:
    """Leave the model as it is (``method=none``): only the dense model is evaluated."""

    name: Name


def wanda_importance(weight: Tensor, mean_abs: Tensor) -> Tensor:
    """Return ``|w_ij| A[j]`` (equation 3): scores of `wanda`, and the tie rule of every method."""
    return weight.abs() * mean_abs.to(weight.device)


def build_mask(
    linears: Mapping[str, nn.Linear],
    method: Method,
    target: Signature,
    contrast: Signature,
    description: Mapping[str, object],
    on_linear: Callable[[int], object] = lambda done: None,
) -> Mask:
    """Score every Linear, select by row, and return the mask.

    Args:
        linears: from `models.maskable_linears`, dense.
        method: how to score.
        target: signature of the persona to be.
        contrast: signature of its opposite.
        description: stored with the mask, beside method and sparsity.
        on_linear: called after each Linear, for progress.

    Raises:
        ValueError: the scores or the sparsity are invalid.
    """
    bits, shapes = {}, {}
    for name, module in linears.items():
        layer = Layer(name, module.weight.detach().float(), target[name], contrast[name])
        tie_break = wanda_importance(layer.weight, layer.target.mean_abs)
        keep = row_top_k(method.score(layer), tie_break, method.sparsity)
        bits[name] = pack_bits(keep)
        shapes[name] = (module.out_features, module.in_features)
        on_linear(1)
    made_by = {"method": method.name, "sparsity": method.sparsity, "gamma": method.gamma}
    return Mask(bits, shapes, target.model_fingerprint, {**made_by, **description})
