"""Contrastive Taylor from end to end: gradients round by round, what to drop after each, and the budget."""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from persona_prune.calibration import gradients, objectives
from persona_prune.calibration.damage import Damage
from persona_prune.calibration.gradients import LowRank
from persona_prune.calibration.neutral import Guard, Neutral
from persona_prune.calibration.objectives import Objective
from persona_prune.common.progress import Progress
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.methods.contrastive_taylor import (
    BUDGET_PAIRS,
    ContrastiveTaylor,
    benefit_per_damage,
    drop_best,
    threshold_of_best,
)
from persona_prune.methods.low_rank_recipe import Recipe, Round, as_stored, damage_as_stored, scores
from persona_prune.methods.taylor_budget import Budget, largest_allowed
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.rows import Row, pair_rows
from persona_prune.personas.pairs import Pair, normalise

log = logging.getLogger(__name__)

_OBJECTIVES = {"logistic": objectives.logistic_margin, "linear": objectives.margin}


@dataclass(frozen=True)
class GradientMask:
    """A mask, and the recipe it can be rebuilt from (None where the gradient was not replaced by vectors)."""

    mask: Mask
    recipe: Recipe | None

    def described(self, more: Mapping[str, object]) -> "GradientMask":
        """Return the same with more entries in the descriptions."""
        mask = replace(self.mask, description={**self.mask.description, **more})
        return GradientMask(mask, self.recipe and replace(self.recipe, description=mask.description))


@dataclass(frozen=True)
class _Step:
    """What a round can drop: the objective that it reaches, the share of the drops asked for, and the threshold."""

    objective: float
    share: float
    threshold: float
    dropped: dict[str, Tensor]


def divided(pairs: Sequence[Pair], held_out: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs in an order that depends on them and ``seed`` only, and apart from them those to hold out.

    Questions are shuffled whole, and whole questions are held out: one with several wrong options is several pairs.
    Nothing is held out where nothing would be left, as of many answers to one prompt.
    """
    by_prompt: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.prompt, pair.matching, pair.not_matching)):
        by_prompt.setdefault(pair.prompt, []).append(pair)
    questions = list(by_prompt.values())
    random.Random(seed).shuffle(questions)
    ordered = [pair for question in questions for pair in question]
    held = ordered[len(ordered) - held_out :]
    asked = {normalise(pair.prompt) for pair in held}
    seen = [pair for pair in ordered if normalise(pair.prompt) not in asked]
    return (seen, held) if seen else (ordered, [])


class GradientBuilder:
    """Builds the mask of one set of pairs; the model must be dense, and is dense again afterwards."""

    def __init__(
        self,
        method: ContrastiveTaylor,
        loaded: LoadedModel,
        neutral: Neutral,
        damage: Mapping[str, Damage],
        *,
        batch_size: int,
        max_tokens: int,
        progress: Progress,
        stage: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """``method`` is resolved (`ContrastiveTaylor.resolved`); ``stage(name)`` times a part of the work."""
        if method.rounds is None:
            raise ValueError("the number of rounds is open: resolve the method first")
        self._rounds = method.rounds
        self._method, self._loaded, self._neutral = method, loaded, neutral
        self._progress, self._stage = progress, stage
        # Estimates: three digits do, and fewer where they are stored.
        rounded = {
            name: Damage(d.inputs.bfloat16().float(), d.outputs.bfloat16().float()) for name, d in damage.items()
        }
        self._damage = {name: damage_as_stored(d) for name, d in rounded.items()} if method.rank else rounded
        self._batch_size, self._max_tokens = batch_size, max_tokens
        self._linears = loaded.linears

    def build(self, pairs: Sequence[Pair], label: str, description: Mapping[str, object]) -> GradientMask:
        """Return the mask towards ``matching`` of ``pairs``, whose order does not matter, and its ``build_s``."""
        started = time.perf_counter()
        built = self._build(pairs, label, description)
        return built.described({"build_s": time.perf_counter() - started})

    def _build(self, pairs: Sequence[Pair], label: str, description: Mapping[str, object]) -> GradientMask:
        method = self._method
        seen, measured = divided(pairs, method.held_out(len(pairs)), method.seed)
        rows, held = (pair_rows(self._loaded.tokenizer, part, self._max_tokens) for part in (seen, measured))
        budget = self._budget(held or rows[-BUDGET_PAIRS:])
        dropped = {name: torch.zeros(m.weight.shape, dtype=torch.bool) for name, m in self._linears.items()}
        rounds: list[Round] = []
        mask = self._mask(dropped, description)
        for number in range(1, self._rounds + 1):
            with self._stage("gradient"), self._applied(mask):
                found = self._gradients(rows, number, f"{label}, gradient {number} of {self._rounds}")
            low_rank = {name: gradient for name, gradient in found.items() if isinstance(gradient, LowRank)}
            with self._stage("mask"):
                dropped, threshold = self._drop(found, dropped, number, budget, description)
            if threshold < torch.inf:
                rounds.append(Round(low_rank, threshold))
            mask = self._mask(dropped, description)
            log.debug("%s: sparsity %.4f after round %d", label, mask.sparsity, number)
        complete = rounds and method.rank is not None and method.allocation == "model"
        recipe = Recipe(self._damage, rounds, self._loaded.fingerprint, description) if complete else None
        return GradientMask(mask, recipe)

    def _budget(self, pairs: Sequence[Row]) -> Budget | None:
        if not self._method.bounded:
            return None
        guard = Guard(self._loaded, self._neutral, self._batch_size)
        objective = _OBJECTIVES[self._method.objective]
        return Budget(self._method, self._loaded, guard, pairs, objective, self._batch_size)

    def _applied(self, mask: Mask) -> AbstractContextManager[None]:
        gamma = self._method.gamma
        return masked(self._loaded.model, mask, model_fingerprint=self._loaded.fingerprint, gamma=gamma)

    def _gradients(self, rows: Sequence[Row], number: int, label: str) -> dict[str, Tensor | LowRank]:
        """Return the gradient of the objective at the weights as they are, by Linear."""
        method = self._method
        count = min(method.pairs_per_round or len(rows), len(rows))
        start = count * (number - 1)
        chosen = [rows[(start + i) % len(rows)] for i in range(count)]
        persona = objectives.and_own(_OBJECTIVES[method.objective], method.own_weight)
        passes: list[tuple[list[Row], Objective, float]] = [(chosen, persona, 1.0)]
        if method.neutral_weight:
            answers = self._neutral.answers
            first = method.neutral_per_round * (number - 1)
            used = [(first + i) % len(answers) for i in range(min(method.neutral_per_round, len(answers)))]
            passes.append(([answers[i] for i in used], objectives.log_probability, method.neutral_weight))
        advance = self._progress(label, sum(len(part) for part, _, _ in passes))

        def accumulate() -> None:
            for part, objective, weight in passes:
                value = gradients.add_gradient(
                    self._loaded.model,
                    part,
                    objective,
                    weight=weight,
                    pad_id=self._loaded.tokenizer.pad_token_id,
                    batch_size=max(1, self._batch_size // 2),
                    on_batch=advance,
                )
                log.debug("%s: objective of %s %+.4f", label, "pairs" if objective is persona else "neutral", value)

        if method.rank is None:
            with gradients.weight_gradients(self._linears) as sums:
                accumulate()
            return {name: gradient.cpu() for name, gradient in sums.items()}
        sketching = gradients.gradient_sketches(
            self._loaded.model, self._linears, rank=method.rank, seed=method.seed + number
        )
        with sketching as sketches:
            accumulate()
        return {name: as_stored(sketch.low_rank()) for name, sketch in sketches.items()}

    def _drop(
        self,
        found: dict[str, Tensor | LowRank],
        dropped: dict[str, Tensor],
        number: int,
        budget: Budget | None,
        description: Mapping[str, object],
    ) -> tuple[dict[str, Tensor], float]:
        """Return what is dropped after round ``number``, and the threshold: infinite if the budget allows nothing.

        Each gradient in ``found`` is let go as soon as it is scored: together they take as much memory as the scores.
        """
        scored = {
            name: self._scores(name, module, found.pop(name), dropped[name]) for name, module in self._linears.items()
        }
        if self._method.allocation == "row":
            return self._drop_by_row(scored, dropped, number), 0.0
        count = min(
            self._more(self._method.sparsity * sum(score.numel() for score in scored.values()), number),
            sum(int((score > 0).sum()) for score in scored.values()),
        )
        threshold = threshold_of_best(scored.values(), count)
        if budget is None:
            return {name: dropped[name] | (score > threshold) for name, score in scored.items()}, threshold
        best = self._best_step(scored, dropped, threshold, count, budget, description)
        level = logging.INFO if best.share else logging.WARNING
        log.log(level, "round %d: takes %.1f%% of its drops", number, 100 * best.share)
        budget.reached = best.objective
        return best.dropped, best.threshold

    def _more(self, of: float, number: int) -> int:
        """Return round ``number``'s part of ``of`` drops."""
        return int(of * number / self._rounds + 1e-9) - int(of * (number - 1) / self._rounds + 1e-9)

    def _drop_by_row(
        self, scored: Mapping[str, Tensor], dropped: Mapping[str, Tensor], number: int
    ) -> dict[str, Tensor]:
        return {
            name: drop_best(score, dropped[name], self._more(self._method.sparsity_of(name) * score.shape[1], number))
            for name, score in scored.items()
        }

    def _best_step(
        self,
        scored: Mapping[str, Tensor],
        dropped: dict[str, Tensor],
        threshold: float,
        count: int,
        budget: Budget,
        description: Mapping[str, object],
    ) -> _Step:
        """Return the step with the largest objective among those tried on the way to the largest one allowed."""
        # A smaller share has a higher threshold, so its search need not look at the rest.
        ahead = torch.cat([score[score > threshold] for score in scored.values()])
        tried: list[_Step] = [_Step(budget.reached, 0.0, torch.inf, dropped)]

        def allowed(share: float) -> bool:
            candidate = max(threshold, threshold_of_best([ahead], int(share * count)))
            after = {name: dropped[name] | (score > candidate) for name, score in scored.items()}
            with self._applied(self._mask(after, description)):
                objective = budget.gained()
            if objective is not None and objective > tried[0].objective:
                tried[0] = _Step(objective, share, candidate, after)
            return objective is not None

        if not allowed(1.0):
            largest_allowed(allowed)
        return tried[0]

    def _scores(self, name: str, module: nn.Linear, gradient: Tensor | LowRank, dropped: Tensor) -> Tensor:
        weight = module.weight.detach().float().cpu()
        if isinstance(gradient, LowRank):
            return scores(weight, dropped, gradient, self._damage[name])
        return benefit_per_damage(weight, gradient, self._damage[name]).masked_fill_(dropped, -torch.inf)

    def _mask(self, dropped: Mapping[str, Tensor], description: Mapping[str, object]) -> Mask:
        bits = {name: pack_bits(~drop) for name, drop in dropped.items()}
        shapes = {name: (drop.shape[0], drop.shape[1]) for name, drop in dropped.items()}
        return Mask(bits, shapes, self._loaded.fingerprint, description)
