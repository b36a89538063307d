"""How a sweep behaves, as opposed to what its jobs compute: no part of a run's configuration or of its hash."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from persona_prune.common.validation import STRICT

_INFEASIBLE = -1000.0  # below any log-probability per token that could be met
_RATIO = "capability/perplexity_ratio"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SweepSettings:
    """Settings of a sweep.

    Attributes:
        fail_fast: start no further job once one has failed.
        dry_run: list the jobs and start none.
        objective: the metric that a searching sweeper maximises.
        max_perplexity_ratio: what ``capability/perplexity_ratio`` may be at most for a job to count; None for no bound.
    """

    fail_fast: bool
    dry_run: bool
    objective: Annotated[str, Field(pattern=r"^[^/\s]+/\S+$")]
    max_perplexity_ratio: Annotated[float, Field(gt=0.0)] | None

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """Return what a searching sweeper maximises; None if the metrics don't hold it.

        A job beyond the bound is worth less than any job within it, and the less the further it is beyond: the
        feasibility rules of Deb (2000), which need no weight of a penalty and suit every sampler that only ranks.
        """
        value = metrics.get(self.objective)
        if value is not None and not math.isfinite(value):
            return 2 * _INFEASIBLE  # worse than any wreck: samplers of searches take no NaN
        bound = self.max_perplexity_ratio
        if value is None or bound is None:
            return value
        ratio = metrics.get(_RATIO)
        if ratio is None:
            return None
        if ratio <= bound:
            return value
        excess = math.log(ratio / bound) if math.isfinite(ratio) else math.inf
        return _INFEASIBLE - min(excess, -_INFEASIBLE)

    def search_problems(self, evaluators: Iterable[str]) -> list[str]:
        """Return why a searching sweeper would never see a value, given what is evaluated."""
        evaluators = list(evaluators)
        problems = []
        needed = self.objective.partition("/")[0]
        if needed not in evaluators:
            problems.append(f"sweep.objective={self.objective}: {needed} is not evaluated; add it to evaluator=[...]")
        if self.max_perplexity_ratio is not None and "capability" not in evaluators:
            problems.append(
                f"sweep.max_perplexity_ratio={self.max_perplexity_ratio:g}: needs the capability evaluator: "
                "evaluator=[choice,capability], or null for no bound"
            )
        return problems
