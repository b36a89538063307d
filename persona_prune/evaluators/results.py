"""What an evaluator returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EvalResult:
    """What one evaluator found on one model.

    Attributes:
        samples: one mapping an item, with ``id`` (the same for every model) and ``values``: metric -> number, or None
            where the metric does not apply to the item. Every such metric is the mean of its values; intervals and
            paired tests are taken over them.
        metrics: figures that are not means over items.
    """

    samples: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        """Return the mean of every item metric that applies to at least one item."""
        values: dict[str, list[float]] = {}
        for sample in self.samples:
            for metric, value in sample["values"].items():
                if value is not None:
                    values.setdefault(metric, []).append(value)
        return {metric: sum(numbers) / len(numbers) for metric, numbers in values.items()}
