"""The protocol of an evaluator and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from persona_prune.models import LoadedModel
from persona_prune.personas import Mix, Persona

VERSION = (
    4  # raise it whenever an evaluator would give other figures, so that cached ones and finished runs are not reused
)

Progress = Callable[[str, int], Callable[[int], object]]
"""``progress(label, total)`` starts a bar and returns its ``advance(n)``."""


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


class Evaluator(Protocol):
    """What a YAML in ``conf/evaluator`` builds.

    ``measures_alignment``: whether it asks for the persona; control masks are measured only where one evaluator does.
    """

    measures_alignment: ClassVar[bool]

    def check(self, persona: Persona | Mix) -> None:
        """Raise ValueError or OSError if the items cannot be read; called before any weights load."""

    def prompts(self, persona: Persona | Mix) -> set[str]:
        """Return the normalised prompts that are evaluated for ``persona``, for the leakage check."""

    def identity(self, persona: Persona | Mix) -> object:
        """Return JSON values that change whenever the result on the same model would: settings and items."""

    def evaluate(
        self, loaded: LoadedModel, persona: Persona | Mix, dense: EvalResult | None, progress: Progress
    ) -> EvalResult:
        """Evaluate the model as it stands.

        Args:
            loaded: the model, masked or not, with its tokenizer.
            persona: who it is to be.
            dense: this evaluator's result for the dense model; None when this call is that one.
            progress: for bars.
        """
