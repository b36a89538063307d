"""How much two masks overlap, by Linear and summed over parts of the model, beside what chance would give."""

import functools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from persona_prune.masks.mask import Mask
from persona_prune.models.layers import OUTSIDE, place
from persona_prune.models.loaded import same_weights

By = Literal["linear", "module", "block", "layer"]
"""Ways to divide a model: every Linear, those of one name (``q_proj``), attention and MLP, or decoder layers."""


@dataclass(frozen=True)
class Overlap:
    """Counts of weights that two masks keep; sums with ``+``.

    Attributes:
        entries: weights both masks cover.
        first: weights the first mask keeps.
        second: weights the second mask keeps.
        both: weights both keep.
        both_by_chance: expectation of ``both`` if each mask kept as many weights of every Linear, drawn at random: the
            mean ``first * second / entries`` of the hypergeometric distribution, summed over Linears.
    """

    entries: int
    first: int
    second: int
    both: int
    both_by_chance: float

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(
            self.entries + other.entries,
            self.first + other.first,
            self.second + other.second,
            self.both + other.both,
            self.both_by_chance + other.both_by_chance,
        )

    def figures(self) -> dict[str, float]:
        """Return the shares that describe the overlap, each followed by its chance level ``<name>_by_chance``.

        ``differing``: share of entries in which the masks differ (Table 2 of the paper), in [0, 1].
        ``jaccard_kept`` and ``jaccard_dropped``: weights that both keep (drop) over weights that either keeps (drops)
        (Tables 13 and 14); 1.0 if neither keeps (drops) any. Their chance level is the ratio of the expectations; the
        expectation of the ratio is larger by a share of order ``1 / entries``.
        """
        figures: dict[str, float] = {"entries": self.entries}
        dropped = self.entries - self.first, self.entries - self.second
        for suffix, both in (("", float(self.both)), ("_by_chance", self.both_by_chance)):
            both_dropped = self.entries - self.first - self.second + both
            figures[f"differing{suffix}"] = (self.first + self.second - 2 * both) / self.entries
            figures[f"jaccard_kept{suffix}"] = _ratio(both, self.first + self.second - both)
            figures[f"jaccard_dropped{suffix}"] = _ratio(both_dropped, sum(dropped) - both_dropped)
        return figures


def overlaps(first: Mask, second: Mask) -> dict[str, Overlap]:
    """Return the overlap of two masks by Linear.

    Raises:
        ValueError: the masks belong to different models.
    """
    one_model = same_weights(first.model_fingerprint, second.model_fingerprint)
    if not one_model or dict(first.shapes) != dict(second.shapes):
        raise ValueError(
            f"the masks belong to different models (fingerprints {first.model_fingerprint} and "
            f"{second.model_fingerprint}): compare masks of one model"
        )
    found = {}
    for name, (rows, columns) in first.shapes.items():
        one, other = first.bits[name], second.bits[name]
        kept = _ones(one), _ones(other)
        found[name] = Overlap(rows * columns, *kept, _ones(one & other), kept[0] * kept[1] / (rows * columns))
    return found


def total(found: Iterable[Overlap]) -> Overlap:
    """Return the sum of overlaps."""
    return functools.reduce(operator.add, found)


def by_part(found: Mapping[str, Overlap], by: By) -> dict[str, Overlap]:
    """Return the overlaps by Linear summed over the parts of the model."""
    return {part: total(found[name] for name in names) for part, names in parts(found, by).items()}


def parts(names: Iterable[str], by: By) -> dict[str, list[str]]:
    """Return part -> names of its Linears, in the order in which they come; layers are named by their number."""
    divided: dict[str, list[str]] = {}
    for name in names:
        where = place(name)
        labels = {
            "linear": name,
            "module": where.module,
            "block": where.block,
            "layer": OUTSIDE if where.layer is None else str(where.layer),
        }
        divided.setdefault(labels[by], []).append(name)
    return divided


def _ratio(both: float, either: float) -> float:
    return both / either if either else 1.0


def _ones(bits: Tensor) -> int:
    return int(np.bitwise_count(bits.numpy()).sum(dtype=np.int64))
