"""From a plan and a loaded model to the mask that is applied: signatures or gradients, cached, then selection."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from persona_prune import gradients, signatures
from persona_prune.apply import check_fits, masked
from persona_prune.config import Plan, evaluated_prompts
from persona_prune.data import PERSONAS_DATA, read_prompts, read_text, without_leaks
from persona_prune.generation import greedy_answers
from persona_prune.likelihood import Row, chat_prompt, pair_rows, text_rows
from persona_prune.masks import Mask, pack_bits
from persona_prune.methods.base import Method, NoMask, SavedMask, build_masks
from persona_prune.methods.contrastive_taylor import (
    ContrastiveTaylor,
    benefit_per_damage,
    drop_best,
    threshold_of_best,
)
from persona_prune.models import LoadedModel, cache_root, maskable_linears
from persona_prune.personas import Pair, content_hash, normalise
from persona_prune.run_directory import RunDirectory, write_text
from persona_prune.signatures import Signature
from persona_prune.validation import Positions

log = logging.getLogger(__name__)

_WINDOW = 256  # tokens of generic text that are read together


@dataclass(frozen=True)
class BuiltMask:
    """The mask to apply, and the opposite's from the same data for comparison (None where the method gives none)."""

    mask: Mask
    opposite: Mask | None
    gamma: float


def build_mask(plan: Plan, loaded: LoadedModel, run: RunDirectory) -> BuiltMask | None:
    """Return the mask that the plan's method asks for; None for the dense model.

    Raises:
        OSError, ValueError: a saved mask is missing, damaged or of another model, or the calibration data unusable.
    """
    method = plan.method
    if isinstance(method, NoMask):
        return None
    if isinstance(method, SavedMask):
        mask = method.load()
        check_fits(loaded.model, mask, loaded.fingerprint)
        return BuiltMask(mask, None, method.gamma)
    pairs = calibration_pairs(plan)
    description = {"persona": plan.persona.name, "model": loaded.name, "data_hash": content_hash(pairs)}
    if isinstance(method, ContrastiveTaylor):
        return _by_gradient(plan, method, loaded, pairs, description, run)
    return _by_signature(plan, method, loaded, pairs, description, run)


def calibration_pairs(plan: Plan) -> tuple[Pair, ...]:
    """Return the plan's calibration pairs, without any prompt that its evaluators ask."""
    pairs = plan.calibration.pairs(plan.persona)
    return without_leaks(pairs, evaluated_prompts(plan.persona, plan.evaluators), plan.calibration.on_leak)


def _by_signature(
    plan: Plan,
    method: Method,
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    description: dict[str, str],
    run: RunDirectory,
) -> BuiltMask:
    with run.stage("signature"):
        rows = pair_rows(loaded.tokenizer, pairs, plan.calibration.max_tokens)
        target, contrast = _signatures(plan, loaded, rows, content_hash(pairs), plan.calibration.positions, run)
    with run.stage("mask"):
        linears = maskable_linears(loaded.model)
        advance = run.progress("mask", len(linears))
        own, other = build_masks(linears, method, target, contrast, description, advance)
    return BuiltMask(own, other, method.gamma)


def _by_gradient(
    plan: Plan,
    method: ContrastiveTaylor,
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    description: dict[str, str],
    run: RunDirectory,
) -> BuiltMask:
    """Take the gradient, drop an equal part of every row, and again at the masked weights, ``rounds`` times."""
    with run.stage("signature"):
        neutral = _neutral_rows(plan, method, loaded, run)
        generic, fisher = _generic(plan, method, loaded, neutral, run)
    linears = maskable_linears(loaded.model)
    settings = {"method": method.name, "sparsity": method.sparsity, "gamma": method.gamma, **description}
    rows = pair_rows(loaded.tokenizer, pairs, plan.calibration.max_tokens)
    dropped = {name: torch.zeros(module.weight.shape, dtype=torch.bool) for name, module in linears.items()}
    mask = _mask_of(dropped, loaded, settings)
    for number in range(1, method.rounds + 1):
        with run.stage("gradient"), _applied(loaded, mask, method.gamma):
            found = _gradient(plan, method, loaded, rows, neutral, f"gradient {number} of {method.rounds}", run)
        with run.stage("mask"):
            for name, module in linears.items():
                weight = module.weight.detach().float()
                square = generic[name].mean_square
                score = benefit_per_damage(weight, found.pop(name), square, fisher[name])
                found[name] = score.cpu().masked_fill_(dropped[name], -torch.inf)
            dropped = _drop(method, found, dropped, number)
            mask = _mask_of(dropped, loaded, settings)
    return BuiltMask(mask, None, method.gamma)


def _applied(loaded: LoadedModel, mask: Mask, gamma: float) -> AbstractContextManager[None]:
    return masked(loaded.model, mask, model_fingerprint=loaded.fingerprint, gamma=gamma)


def _drop(
    method: ContrastiveTaylor, scores: dict[str, Tensor], dropped: dict[str, Tensor], number: int
) -> dict[str, Tensor]:
    """Return what is dropped after round ``number``: an equal part in every round."""

    def more(of: float) -> int:
        return int(of * number / method.rounds + 1e-9) - int(of * (number - 1) / method.rounds + 1e-9)

    if method.allocation == "row":
        return {
            name: drop_best(score, dropped[name], more(method.sparsity_of(name) * score.shape[1]))
            for name, score in scores.items()
        }
    total = sum(score.numel() for score in scores.values())
    threshold = threshold_of_best(scores.values(), more(method.sparsity * total))
    return {name: dropped[name] | (score > threshold) for name, score in scores.items()}


def _gradient(
    plan: Plan,
    method: ContrastiveTaylor,
    loaded: LoadedModel,
    rows: Sequence[Row],
    neutral: Sequence[Row],
    label: str,
    run: RunDirectory,
) -> dict[str, Tensor]:
    passes = [(rows, gradients.margin, 1.0)]
    if method.neutral_weight:
        passes.append((neutral, gradients.log_probability, method.neutral_weight))
    advance = run.progress(label, sum(len(part) for part, _, _ in passes))
    with gradients.weight_gradients(maskable_linears(loaded.model)) as found:
        for part, objective, weight in passes:
            gradients.add_gradient(
                loaded.model,
                part,
                objective,
                weight=weight,
                pad_id=loaded.tokenizer.pad_token_id,
                batch_size=max(1, plan.calibration.batch_size // 2),
                on_batch=advance,
            )
    return found


def _mask_of(dropped: dict[str, Tensor], loaded: LoadedModel, settings: dict[str, object]) -> Mask:
    bits = {name: pack_bits(~drop) for name, drop in dropped.items()}
    shapes = {name: (drop.shape[0], drop.shape[1]) for name, drop in dropped.items()}
    return Mask(bits, shapes, loaded.fingerprint, settings)


def _neutral_rows(plan: Plan, method: ContrastiveTaylor, loaded: LoadedModel, run: RunDirectory) -> list[Row]:
    """Return neutral prompts with the dense model's greedy answers, generated once for a model and cached."""
    asked = evaluated_prompts(plan.persona, plan.evaluators)
    prompts = [
        p for p in read_prompts(PERSONAS_DATA / "neutral" / "calibration_prompts.jsonl") if normalise(p) not in asked
    ]
    encoded = [
        tuple(loaded.tokenizer(chat_prompt(loaded.tokenizer, p), add_special_tokens=False).input_ids)
        for p in prompts[: method.neutral_prompts]
    ]
    key = json.dumps([loaded.fingerprint, str(loaded.model.dtype), method.neutral_tokens, encoded])
    path = cache_root() / "neutral" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        answers = [tuple(answer) for answer in json.loads(path.read_text())]
    except (OSError, ValueError):
        answers = greedy_answers(
            loaded,
            encoded,
            max_new_tokens=method.neutral_tokens,
            batch_size=4 * plan.calibration.batch_size,
            on_batch=run.progress("neutral answers", len(encoded)),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(answers))
    return [Row(prompt, (answer,)) for prompt, answer in zip(encoded, answers, strict=True)]


def _generic(
    plan: Plan, method: ContrastiveTaylor, loaded: LoadedModel, neutral: Sequence[Row], run: RunDirectory
) -> tuple[Signature, dict[str, Tensor]]:
    """Return input statistics and output Fisher of neutral text and neutral conversations, made once for a model."""
    text = read_text(PERSONAS_DATA / "neutral" / "generic.txt")
    rows = [*text_rows(loaded.tokenizer, text, _WINDOW, method.generic_tokens), *neutral]
    digest = hashlib.sha256(json.dumps([[row.prompt, row.branches] for row in rows]).encode()).hexdigest()[:16]
    (generic,) = _signatures(plan, loaded, rows, digest, "all", run)
    batch_size = max(1, plan.calibration.batch_size // 4)
    path = signatures.cache_file(
        loaded.fingerprint, digest, {"fisher": method.seed, "dtype": str(loaded.model.dtype), "batch": batch_size}
    )
    if path.is_file():
        return generic, load_file(path)
    fisher = gradients.output_fisher(
        loaded.model,
        maskable_linears(loaded.model),
        rows,
        pad_id=loaded.tokenizer.pad_token_id,
        batch_size=batch_size,
        seed=method.seed,
        on_batch=run.progress("fisher", len(rows)),
    )
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file(fisher, partial)
    partial.replace(path)
    return generic, fisher


def _signatures(
    plan: Plan, loaded: LoadedModel, rows: Sequence[Row], data_hash: str, positions: Positions, run: RunDirectory
) -> tuple[Signature, ...]:
    """Return the signatures of ``rows``, from the cache if these inputs were seen before."""
    settings = {
        "positions": positions,
        "max_tokens": plan.calibration.max_tokens,
        "chat_template": loaded.tokenizer.chat_template,
        "dtype": str(loaded.model.dtype),
    }
    path = signatures.cache_file(loaded.fingerprint, data_hash, settings)
    cached = signatures.load(path)
    if cached is not None:
        log.info("signature of %d prompts: from the cache", len(rows))
        return cached
    fresh = signatures.collect(
        loaded.model,
        maskable_linears(loaded.model),
        rows,
        pad_id=loaded.tokenizer.pad_token_id,
        batch_size=plan.calibration.batch_size,
        positions=positions,
        model_fingerprint=loaded.fingerprint,
        data_hash=data_hash,
        on_batch=run.progress("signature", len(rows)),
    )
    signatures.save(path, fresh)
    return fresh
