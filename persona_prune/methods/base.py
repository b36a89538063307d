"""The protocol of a method, and the code all methods share: from scores to a mask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor, nn

from persona_prune.calibration.signatures import Signature, Statistics
from persona_prune.common.validation import STRICT, Name
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.masks.top_k import TieBreak, block_top_k, disjoint_top_k


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
    """What a YAML in ``conf/method`` builds: a `selection.Selection` that can score."""

    is_control: ClassVar[bool]

    @property
    def name(self) -> str:
        """The method's name."""

    @property
    def sparsity(self) -> float:
        """Share of every row to drop, in [0, 1)."""

    @property
    def gamma(self) -> float:
        """What dropped weights are multiplied with (equation 7)."""

    @property
    def disjoint(self) -> bool:
        """Whether the masks of the two poles exclude each other."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The statistics that `score` reads, as ``target.mean_abs``; a test holds it against what is read."""

    def block(self, columns: int) -> int:
        """Return the width of the blocks of columns that each keep the same share."""

    def sparsity_of(self, linear: str) -> float:
        """Share of every row of one Linear to drop."""

    def score(self, layer: Layer) -> Tensor:
        """Return scores ``[out_features, in_features]``, larger = keep."""


@pydantic_dataclass(frozen=True, kw_only=True, config=STRICT)
class NoMask:
    """Leave the model as it is (``method=none``): only the dense model is evaluated."""

    uses_pairs: ClassVar[bool] = False
    uses_validation: ClassVar[bool] = False
    is_control: ClassVar[bool] = False

    name: Name


def wanda_importance(weight: Tensor, mean_abs: Tensor) -> Tensor:
    """Return ``|w_ij| A[j]`` (equation 3): scores of `wanda`, and the tie rule of every method but the controls."""
    return weight.abs() * mean_abs.to(weight.device)


def tie_rule(method: Method, layer: Layer) -> TieBreak:
    """Return which of equal scores in a Linear is kept, computed for the rows that need it: the larger importance.

    Controls know nothing of the persona, so for them it is the lower column alone.
    """
    if method.is_control:
        return lambda rows: torch.zeros_like(layer.weight[rows])
    return lambda rows: wanda_importance(layer.weight[rows], layer.target.mean_abs)


def build_masks(
    linears: Mapping[str, nn.Linear],
    method: Method,
    target: Signature,
    contrast: Signature,
    description: Mapping[str, object],
    on_linear: Callable[[int], object] = lambda done: None,
) -> tuple[Mask, Mask]:
    """Score every Linear for either pole, select by row, and return the persona's mask and its opposite's.

    Args:
        linears: from `models.maskable_linears`, dense.
        method: how to score.
        target: signature of the persona to be.
        contrast: signature of its opposite.
        description: stored with the masks, beside the method's settings.
        on_linear: called after each Linear, for progress.

    Raises:
        ValueError: the scores or the sparsity are invalid.
    """
    bits: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    shapes = {name: (module.out_features, module.in_features) for name, module in linears.items()}
    for name, module in linears.items():
        weight = module.weight.detach().float()
        layer = Layer(name, weight, target[name], contrast[name])
        for packed, keep in zip(bits, _keep_both(method, layer), strict=True):
            packed[name] = pack_bits(keep)
        on_linear(1)
    settings = {"method": method.name, "sparsity": method.sparsity, "gamma": method.gamma, **description}
    own, other = (
        Mask(packed, shapes, target.model_fingerprint, {**settings, "pole": pole})
        for packed, pole in zip(bits, ("target", "opposite"), strict=True)
    )
    return own, other


def _keep_both(method: Method, layer: Layer) -> tuple[Tensor, Tensor]:
    """Return what the persona and what its opposite keep of one Linear, bool ``[out_features, in_features]``."""
    mirrored = Layer(layer.name, layer.weight, layer.contrast, layer.target)
    sparsity = method.sparsity_of(layer.name)
    scores = [method.score(side) for side in (layer, mirrored)]
    ties = [tie_rule(method, side) for side in (layer, mirrored)]
    if method.disjoint:
        return disjoint_top_k(scores[0], scores[1], ties[0], ties[1], sparsity)
    block = method.block(layer.weight.shape[1])
    first, second = (block_top_k(s, t, sparsity, block) for s, t in zip(scores, ties, strict=True))
    return first, second
