"""How much a round of contrastive Taylor may drop: what it costs, and whether the persona gains by it."""

import logging
from collections.abc import Callable, Sequence

from persona_prune.calibration.neutral import Guard, mean_log_prob
from persona_prune.calibration.objectives import Objective
from persona_prune.methods.contrastive_taylor import ContrastiveTaylor
from persona_prune.models.likelihood import score
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.rows import Row

log = logging.getLogger(__name__)

_SMALLEST_SHARE = 1 / 128  # of a round's drops, before nothing is dropped at all
_CLOSER = 2


class Budget:
    """Judges the model as it stands, with more dropped than before.

    What a gradient promises holds for small steps only, and a round drops a lot at once: it can cost too much, and it
    can take back what earlier rounds gained. So every step is measured before it is taken: its costs, and the objective
    on ``pairs``, with own answers and neutral drift weighted as in the gradients.

    Attributes:
        reached: that objective after what was dropped so far.
    """

    def __init__(
        self,
        method: ContrastiveTaylor,
        loaded: LoadedModel,
        guard: Guard,
        pairs: Sequence[Row],
        objective: Objective,
        batch_size: int,
    ) -> None:
        """Measure the dense model, which ``loaded`` must be now; ``pairs`` are rows of two branches."""
        self._method, self._loaded, self._guard = method, loaded, guard
        self._pairs, self._objective, self._batch_size = pairs, objective, batch_size
        self._dense_own, on_pairs = self._on_pairs()
        self.reached = on_pairs + method.own_weight * self._dense_own

    def gained(self) -> float | None:
        """Return the objective of the model as it stands; None if it costs too much or reaches no more than before."""
        # What most often is too high comes first: the rest is not measured then.
        neutral = self._guard.on_prompts()
        if self._exceeds("neutral drift", neutral.drift, self._method.max_neutral_drift):
            return None
        if self._exceeds("first-word shift", neutral.first_token_shift, self._method.max_first_word_shift):
            return None
        own, objective = self._on_pairs()
        method = self._method
        total = objective + method.own_weight * own - method.neutral_weight * neutral.drift
        log.debug("budget: objective %.4f (of the pairs %.4f), before %.4f", total, objective, self.reached)
        if not total > self.reached:  # nor if it is no number
            return None
        if self._exceeds("own loss", self._dense_own - own, self._method.max_own_loss):
            return None
        if self._method.max_perplexity_ratio is not None:
            ratio = self._guard.perplexity_ratio()
            if self._exceeds("perplexity ratio", ratio, self._method.max_perplexity_ratio):
                return None
        return total

    def _on_pairs(self) -> tuple[float, float]:
        """Return the log-probability per token of the persona's own answers, and the objective; means over pairs."""
        answers = score(self._loaded, self._pairs, self._batch_size)
        objective = self._objective(range(len(answers)), answers).item() / len(answers)
        return mean_log_prob(answers), objective

    @staticmethod
    def _exceeds(what: str, cost: float, bound: float | None) -> bool:
        if bound is None:
            return False
        log.debug("budget: %s %.4f, at most %.4f", what, cost, bound)
        return not cost <= bound  # also if it is no number


def largest_allowed(allowed: Callable[[float], bool]) -> float:
    """Return a share that is allowed, and at most a fifth below the largest one that is; 1 is known not to be.

    Halves the share until it is allowed, then closes in: what is allowed may be any small part of what was asked for.
    0 if not even a 128th is.
    """
    low = 0.5
    while not allowed(low):
        if low <= _SMALLEST_SHARE:
            return 0.0
        low /= 2
    high = 2 * low
    for _ in range(_CLOSER):
        middle = (low + high) / 2
        if allowed(middle):
            low = middle
        else:
            high = middle
    return low
