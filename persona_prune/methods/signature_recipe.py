"""A mask by a signature method as what it is made from: the statistics that its scores read, and the settings.

The vectors are kept exactly (float32), so that the mask is the same as without them: about 0.8 to 2.4 bytes for every
input of a layer, instead of a bit for every weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from persona_prune.calibration.signatures import Signature, Statistics
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.masks.top_k import block_top_k
from persona_prune.methods.base import Layer, Method, build_masks, tie_rule, wanda_importance
from persona_prune.methods.contrastive_sparse import ContrastiveSparse
from persona_prune.methods.contrastive_wanda import ContrastiveWanda
from persona_prune.methods.magnitude import Magnitude
from persona_prune.methods.random import Random
from persona_prune.methods.selection import Selection
from persona_prune.methods.sparse import Sparse
from persona_prune.methods.wanda import Wanda

# A file names its method by a key of this table; nothing is ever imported because a file says so.
REBUILDABLE: dict[str, type[Selection]] = {
    kind.__name__: kind for kind in (Wanda, Sparse, ContrastiveWanda, ContrastiveSparse, Magnitude, Random)
}
_FIELDS = ("mean_abs", "mean_square", "sequence_mean", "sequence_variance")
_GATE = "gate"

Vectors = Mapping[str, Mapping[str, Tensor]]
"""What is stored: ``target.mean_abs``, for example, or ``gate`` -> group's first Linear -> ``[in_features]``."""


@dataclass(frozen=True)
class SignatureRecipe:
    """Everything but the model's own weights that a mask of a signature method is a function of.

    Attributes:
        method: with its settings.
        vectors: statistics, or for contrastive Wanda with independent poles its gate, which takes their place.
        leader: Linear -> the one of its group (q, k, v; gate, up) that ``vectors`` are kept by.
        model_fingerprint: of the dense model.
        description: as in `masks.Mask`.
    """

    method: Method
    vectors: Vectors
    leader: Mapping[str, str]
    model_fingerprint: str
    description: Mapping[str, object]

    def mask(self, linears: Mapping[str, nn.Linear]) -> Mask:
        """Return the mask of the dense weights of ``linears``: the persona's, not its opposite's.

        Raises:
            ValueError: the Linears are not those the recipe is for, or its settings or vectors make no mask.
        """
        sizes = {name: len(vector) for name, vector in next(iter(self.vectors.values())).items()}
        if self.leader.keys() != linears.keys() or any(
            sizes[self.leader[name]] != module.in_features for name, module in linears.items()
        ):
            raise ValueError("the persona file is for another model: its Linears are not those of this one")
        shapes = {name: (module.out_features, module.in_features) for name, module in linears.items()}
        if self.method.disjoint:
            target, contrast = (self._signature(pole) for pole in ("target", "contrast"))
            bits = build_masks(linears, self.method, target, contrast, {})[0].bits
        else:
            bits = {name: pack_bits(self._keep(name, module)) for name, module in linears.items()}
        return Mask(bits, shapes, self.model_fingerprint, self.description)

    def _keep(self, name: str, module: nn.Linear) -> Tensor:
        """Return what is kept of one Linear, bool ``[out_features, in_features]``, as `base.build_masks` does."""
        weight = module.weight.detach().float()
        target, contrast = (self._statistics(pole, self.leader[name]) for pole in ("target", "contrast"))
        layer = Layer(name, weight, target, contrast)
        if _GATE in self.vectors:
            score = wanda_importance(weight, self.vectors[_GATE][self.leader[name]])
        else:
            score = self.method.score(layer)
        block = self.method.block(weight.shape[1])
        return block_top_k(score, tie_rule(self.method, layer), self.method.sparsity_of(name), block)

    def _statistics(self, pole: str, leader: str) -> Statistics:
        # What the method doesn't read is empty.
        found = (self.vectors.get(f"{pole}.{field}", {}).get(leader, torch.empty(0)) for field in _FIELDS)
        return Statistics(torch.empty(0), *found)

    def _signature(self, pole: str) -> Signature:
        statistics = {leader: self._statistics(pole, leader) for leader in self.leader.values()}
        return Signature(statistics, self.leader, self.model_fingerprint, "", "all", 0, 0)


def recipe_of(
    method: Method, target: Signature, contrast: Signature, description: Mapping[str, object]
) -> SignatureRecipe | None:
    """Return what the mask of ``method`` (`base.build_masks`) is made from; None for methods that files can't name.

    Args:
        method: how to score.
        target, contrast: signatures of the persona and of its opposite.
        description: as in `masks.Mask`.
    """
    kind: type = type(method)
    if kind not in REBUILDABLE.values():
        return None
    poles = {"target": target, "contrast": contrast}
    vectors: dict[str, dict[str, Tensor]] = {}
    for key in sorted(statistics_read(method)):
        if key == _GATE:
            vectors[key] = {
                name: method.score(Layer(name, torch.ones(1, len(own.mean_abs)), own, contrast.statistics[name]))[0]
                for name, own in target.statistics.items()
            }
        else:
            pole, _, field = key.partition(".")
            vectors[key] = {name: getattr(own, field) for name, own in poles[pole].statistics.items()}
    return SignatureRecipe(method, vectors, target.leader, target.model_fingerprint, description)


def statistics_read(method: Method) -> set[str]:
    """Return the keys of ``vectors`` that the persona's mask depends on; `base.tie_rule` may read ``mean_abs``."""
    if isinstance(method, ContrastiveWanda) and not method.disjoint:
        return {_GATE, "target.mean_abs"}
    read = {*method.reads, "target.mean_abs"}
    return (
        {f"{pole}.{key.partition('.')[2]}" for key in read for pole in ("target", "contrast")}
        if method.disjoint
        else read
    )
