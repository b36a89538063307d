"""From a plan and a loaded model to what makes it the persona: a mask, or a baseline; and to the masks it must beat."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

from persona_prune.calibration import signature_cache, signatures
from persona_prune.calibration.damage import cached_damage
from persona_prune.calibration.neutral import Guard, Neutral, neutral_material
from persona_prune.calibration.own_answers import against_own_answers
from persona_prune.calibration.signatures import Signature
from persona_prune.common.cache import kept
from persona_prune.common.progress import progress_bar
from persona_prune.masks.applying import Masking, check_fits
from persona_prune.masks.mask import drop_all_of
from persona_prune.methods.base import Method, NoMask, build_masks
from persona_prune.methods.baselines.base import Baseline, Material
from persona_prune.methods.contrastive_taylor import ContrastiveTaylor
from persona_prune.methods.selection import Selection
from persona_prune.methods.signature_recipe import recipe_of
from persona_prune.methods.taylor_rounds import GradientBuilder, GradientMask
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.rows import pair_rows
from persona_prune.personas.pair_files import without_leaks
from persona_prune.personas.pairs import Pair, content_hash, oriented, pole_free, prompt_hashes
from persona_prune.personas.persona import AnyPersona, Mix, Persona
from persona_prune.runs.built import Built, description_of
from persona_prune.runs.directory import RunDirectory
from persona_prune.runs.plan import Plan, evaluated_prompts
from persona_prune.saved.mask_cache import cached_mask, mask_path
from persona_prune.saved.method import SavedMask
from persona_prune.saved.persona_file import calibrated_on

log = logging.getLogger(__name__)


_GUARD_ANSWER_TOKENS = 16


class Builder:
    """Builds for one plan and one dense model, which is dense again after every call.

    ``made_from`` are the files that its masks were made from so far: statistics, or another persona file.
    """

    def __init__(self, plan: Plan, loaded: LoadedModel, run: RunDirectory) -> None:
        self._plan, self._loaded, self._run = plan, loaded, run
        self._asked = evaluated_prompts(plan.persona, plan.evaluators)
        self._neutral_kept: dict[tuple[int, int, int], Neutral] = {}
        self._stage: Callable[[str], AbstractContextManager[None]] = run.stage
        self.made_from: list[Path] = []

    def for_controls(self) -> "Builder":
        """Return a builder of control masks from the same material, whose time is counted apart."""
        other = copy.copy(self)
        other._stage = lambda name: self._run.stage("controls")
        other.made_from = []
        return other

    def build(self) -> Built | None:
        """Return what the plan's method asks for; None for the dense model.

        Raises:
            OSError, ValueError: a saved mask is missing, damaged or of another model, or the data unusable.
        """
        method = self._plan.method
        if isinstance(method, NoMask):
            return None
        if isinstance(method, SavedMask):
            mask = method.load(self._loaded.linears)
            self._note(Path(method.path).expanduser())
            check_fits(self._loaded.model, mask, self._loaded.fingerprint)
            return Built(Masking(mask, float(str(mask.description["gamma"]))), mask)
        if isinstance(method, Selection):
            method.check_overrides(self._loaded.linears)
            return self.mask(method, "own")
        return self._baseline(method)

    def _note(self, source: Path) -> None:
        # A cache that could not be written has no such file.
        if source not in self.made_from and kept(source):
            self.made_from.append(source)

    def mask(self, method: Selection, label: str) -> Built:
        """Return the mask of the plan's persona; of its opposite, or of nobody, if ``label`` says so."""
        persona = self._plan.persona
        parts: list[tuple[AnyPersona, list[tuple[Pair, ...]], float]] = [
            (part, [self._pairs(part)], share) for part, share in persona.parts
        ]
        if isinstance(persona, Mix) and persona.pooled:
            parts = [(persona, [pairs for _, own, _ in parts for pairs in own], 1.0)]
        built = [self._part(method.shared(share), part, sets, label) for part, sets, share in parts]
        if len(built) == 1:
            return built[0]
        masks = [part.mask for part in built if part.mask]
        asked = sorted({prompt for mask in masks for prompt in calibrated_on(mask.description)})
        description = {**description_of(self._plan, method, persona), "calibrated_on": asked}
        mask = drop_all_of(masks, description)
        opposites = [part.opposite for part in built if part.opposite]
        opposite = drop_all_of(opposites, description) if len(opposites) == len(built) else None
        return Built(Masking(mask, method.gamma), mask, opposite)

    def _part(self, method: Selection, persona: AnyPersona, own_sets: Sequence[Sequence[Pair]], label: str) -> Built:
        sets = [oriented(own, label) for own in own_sets]
        pairs = tuple(pair for own in sets for pair in own)
        about = description_of(self._plan, method, persona)
        asked = sorted(prompt_hashes(pair.prompt for pair in pairs))
        description = {**about, "data_hash": content_hash(pairs), "pole": label, "calibrated_on": asked}
        if isinstance(method, ContrastiveTaylor):
            found = self._by_gradient(method.resolved(len(pairs)), pairs, f"{persona.name} ({label})", description)
            return Built(Masking(found.mask, method.gamma), found.mask, recipe=found.recipe)
        with self._stage("signature"):
            # Set by set: what poles have in common is read once for all the types that share them.
            target, contrast = signatures.merged([self._signatures(own) for own in sets], content_hash(pairs))
        with self._stage("mask"):
            linears = self._loaded.linears
            advance = progress_bar("mask", len(linears))
            own, other = build_masks(linears, cast(Method, method), target, contrast, description, advance)
        recipe = recipe_of(cast(Method, method), target, contrast, own.description)
        return Built(Masking(own, method.gamma), own, other, recipe=recipe)

    def _pairs(self, persona: Persona) -> tuple[Pair, ...]:
        """Return the calibration pairs without any prompt that the evaluators ask."""
        return self._usable(self._plan.calibration.pairs(persona))

    def _usable(self, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        """Return pairs that are not evaluated, complete."""
        calibration = self._plan.calibration
        unasked = without_leaks(pairs, self._asked, calibration.on_leak)
        return against_own_answers(self._loaded, unasked, calibration.batch_size, progress_bar)

    def _by_gradient(
        self, method: ContrastiveTaylor, pairs: Sequence[Pair], label: str, description: Mapping[str, object]
    ) -> GradientMask:
        loaded, calibration = self._loaded, self._plan.calibration
        shape = {"batch_size": calibration.batch_size, "max_tokens": calibration.max_tokens}
        with self._stage("generic"):
            neutral = self._neutral(method.generic_tokens, method.neutral_prompts, method.neutral_tokens)
            damage, file = cached_damage(
                loaded,
                [*neutral.text, *neutral.answers],
                neutral.digest,
                batch_size=max(1, calibration.batch_size // 4),
                seed=method.seed,
                progress=progress_bar,
            )
            self._note(file)
        builder = GradientBuilder(method, loaded, neutral, damage, **shape, progress=progress_bar, stage=self._stage)
        path = mask_path(method, loaded, neutral.digest, pairs, **shape)
        linears = loaded.linears
        found = cached_mask(path, linears, label, lambda: builder.build(pairs, label, description))
        return found.described(description)

    def _neutral(self, text_tokens: int, prompts: int, answer_tokens: int) -> Neutral:
        key = (text_tokens, prompts, answer_tokens)
        if key not in self._neutral_kept:
            self._neutral_kept[key] = neutral_material(
                self._loaded,
                self._asked,
                text_tokens=text_tokens,
                prompts=prompts,
                answer_tokens=answer_tokens,
                batch_size=4 * self._plan.calibration.batch_size,
                progress=progress_bar,
            )
        return self._neutral_kept[key]

    def _signatures(self, pairs: Sequence[Pair]) -> tuple[Signature, ...]:
        """Return the signatures of ``pairs``, from the cache if these inputs were seen before, for either pole."""
        loaded, calibration = self._loaded, self._plan.calibration
        pairs, turned = pole_free(pairs)
        rows, data_hash = pair_rows(loaded.tokenizer, pairs, calibration.max_tokens), content_hash(pairs)
        settings = {
            "positions": calibration.positions,
            "max_tokens": calibration.max_tokens,
            "batch_size": calibration.batch_size,  # sums in bf16 depend on it
            "chat_template": loaded.tokenizer.chat_template,
            "arithmetic": loaded.arithmetic,
        }
        path = signature_cache.cache_file(loaded.fingerprint, data_hash, settings)
        self._note(path)
        cached = signature_cache.load(path)
        if cached is not None:
            log.info("signature of %d prompts: from the cache", len(rows))
            return cached[::-1] if turned else cached
        fresh = signatures.collect(
            loaded.model,
            loaded.linears,
            rows,
            pad_id=loaded.tokenizer.pad_token_id,
            batch_size=calibration.batch_size,
            positions=calibration.positions,
            model_fingerprint=loaded.fingerprint,
            data_hash=data_hash,
            on_batch=progress_bar("signature", len(rows)),
        )
        signature_cache.save(path, fresh)
        return fresh[::-1] if turned else fresh

    def _baseline(self, method: Baseline) -> Built:
        plan = self._plan
        persona = plan.persona
        fit: tuple[Pair, ...] = ()
        validation: tuple[Pair, ...] = ()
        for part, _ in persona.parts if method.uses_pairs else ():
            if method.uses_validation:
                own, held = plan.calibration.divided(part)
                validation += self._usable(held)
            else:
                own = plan.calibration.pairs(part)
            fit += self._usable(own)

        def guard() -> Guard:
            neutral = self._neutral(1, 1, _GUARD_ANSWER_TOKENS)
            return Guard(self._loaded, neutral, plan.calibration.batch_size)

        material = Material(
            persona=persona,
            pairs=fit,
            validation=validation,
            guard=guard,
            batch_size=plan.calibration.batch_size,
            max_tokens=plan.calibration.max_tokens,
            seed=plan.seed,
        )
        with self._stage("baseline"):
            return Built(method.build(self._loaded, material, progress_bar))
