"""One run: model + persona -> signatures -> mask -> masked model -> evaluators -> metrics, samples, report."""

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from persona_prune import report, signatures
from persona_prune.apply import check_fits, masked
from persona_prune.config import Plan, evaluated_prompts
from persona_prune.data import without_leaks
from persona_prune.evaluators.base import EvalResult
from persona_prune.likelihood import pair_rows
from persona_prune.masks import Mask
from persona_prune.methods.base import Method, NoMask, SavedMask, build_masks
from persona_prune.models import LoadedModel, maskable_linears
from persona_prune.personas import Pair, content_hash
from persona_prune.run_directory import RunDirectory, one_line, open_run_directory, peak_memory_mb, write_text
from persona_prune.signatures import Signature
from persona_prune.statistics import compare, summarise
from persona_prune.tracking import RunInfo

log = logging.getLogger(__name__)

Results = dict[str, EvalResult]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its metrics, or the one line that says why it failed."""

    metrics: Mapping[str, float]
    error: str | None

    @property
    def objective(self) -> float | None:
        """What a sweeper maximises: the margin of the choice evaluator, where there is one."""
        return self.metrics.get("choice/margin")


@dataclass(frozen=True)
class BuiltMask:
    """The mask to apply, and the opposite's from the same data for comparison (None for a saved mask)."""

    mask: Mask
    opposite: Mask | None
    gamma: float


def run_experiment(plan: Plan, overrides: Sequence[str]) -> Outcome:
    """Run ``plan`` and leave its directory behind; errors end up in the outcome, the log and the status file."""
    try:
        with open_run_directory(plan.directory, plan.config, plan.config_hash, overrides) as run:
            metrics = _run(plan, run)
    except Exception as error:
        log.error("error: %s (details in %s)", one_line(error), plan.directory / "run.log")
        return Outcome({}, one_line(error))
    return Outcome(metrics, None)


def _run(plan: Plan, run: RunDirectory) -> dict[str, float]:
    started = time.perf_counter()
    _seed_everything(plan.seed)
    log.info("%s -> %s", plan.name, run.path)
    tracked = plan.tracker.start(_run_info(plan, run.path))
    try:
        with run.stage("load"):
            loaded = plan.model.load()
        built = _build(plan, loaded, run)
        with run.stage("evaluate"):
            dense = _evaluate(plan, loaded, run, dense=None)
            results = dense
            if built is not None:
                with masked(loaded.model, built.mask, model_fingerprint=loaded.fingerprint, gamma=built.gamma):
                    results = _evaluate(plan, loaded, run, dense=dense)
        metrics = _metrics(results, dense)
        metrics |= _save(plan, run, built, results, dense)
        metrics |= {f"time/{stage}_s": seconds for stage, seconds in run.seconds.items()}
        metrics |= {"time/total_s": time.perf_counter() - started, "memory/peak_mb": peak_memory_mb()}
        run.write_json("metrics.json", metrics)
        page = report.run_page(
            report.RunFacts(
                plan.name,
                plan.config,
                metrics,
                results,
                dense,
                built.mask if built else None,
                built.opposite if built else None,
            )
        )
        write_text(run.path / "report.html", page)
        samples = {name: result.samples for name, result in results.items()}
        files = [run.path / "report.html", run.path / "metrics.json", run.path / "persona.safetensors"]
        tracked.finish(metrics, samples, [file for file in files if file.exists()])
    except BaseException:
        tracked.fail()
        raise
    log.info("%s", report.summary_lines(plan.name, metrics))
    log.info("report: %s", run.path / "report.html")
    return metrics


def _signatures(plan: Plan, loaded: LoadedModel, run: RunDirectory) -> tuple[Signature, Signature]:
    """Return target and contrast signature, from the cache if these inputs were seen before."""
    calibration = plan.calibration
    pairs = calibration_pairs(plan)
    settings = {
        "positions": calibration.positions,
        "max_tokens": calibration.max_tokens,
        "chat_template": loaded.tokenizer.chat_template,
        "dtype": str(loaded.model.dtype),
    }
    with run.stage("signature"):
        data_hash = content_hash(pairs)
        path = signatures.cache_file(loaded.fingerprint, data_hash, settings)
        cached = signatures.load(path)
        if cached is not None:
            log.info("signature of %d pairs: from the cache", len(pairs))
            return cached
        fresh = signatures.collect(
            loaded.model,
            maskable_linears(loaded.model),
            pair_rows(loaded.tokenizer, pairs, calibration.max_tokens),
            pad_id=loaded.tokenizer.pad_token_id,
            batch_size=calibration.batch_size,
            positions=calibration.positions,
            model_fingerprint=loaded.fingerprint,
            data_hash=data_hash,
            on_batch=run.progress("signature", len(pairs)),
        )
        signatures.save(path, fresh)
    return fresh


def calibration_pairs(plan: Plan) -> tuple[Pair, ...]:
    """Return the plan's calibration pairs, without any prompt that its evaluators ask."""
    pairs = plan.calibration.pairs(plan.persona)
    return without_leaks(pairs, evaluated_prompts(plan.persona, plan.evaluators), plan.calibration.on_leak)


def _build(plan: Plan, loaded: LoadedModel, run: RunDirectory) -> BuiltMask | None:
    """Return the mask that the method asks for; None for the dense model."""
    method = plan.method
    if isinstance(method, NoMask):
        return None
    if isinstance(method, SavedMask):
        mask = method.load()
        check_fits(loaded.model, mask, loaded.fingerprint)
        return BuiltMask(mask, None, method.gamma)
    target, contrast = _signatures(plan, loaded, run)
    with run.stage("mask"):
        return _masks(plan, method, loaded, target, contrast, run)


def _masks(
    plan: Plan, method: Method, loaded: LoadedModel, target: Signature, contrast: Signature, run: RunDirectory
) -> BuiltMask:
    linears = maskable_linears(loaded.model)
    description = {"persona": plan.persona.name, "model": loaded.name, "data_hash": target.data_hash}
    advance = run.progress("mask", len(linears))
    own, other = build_masks(linears, method, target, contrast, description, advance)
    return BuiltMask(own, other, method.gamma)


def _evaluate(plan: Plan, loaded: LoadedModel, run: RunDirectory, dense: Results | None) -> Results:
    model = "dense" if dense is None else "masked"

    def progress(label: str, total: int) -> object:
        return run.progress(f"{label} ({model})", total)

    return {
        name: evaluator.evaluate(loaded, plan.persona, dense and dense[name], progress)  # type: ignore[arg-type]
        for name, evaluator in plan.evaluators.items()
    }


def _metrics(results: Results, dense: Results) -> dict[str, float]:
    """Return the flat figures of every evaluator: this model's, the dense model's, and the paired comparison."""
    metrics: dict[str, float] = {}
    for name, result in results.items():
        metrics |= {f"{name}/{key}": value for key, value in summarise(result).items()}
        if result is not dense[name]:
            paired = compare(result, dense[name], list(result.means()))
            metrics |= {f"{name}/{key}": value for key, value in paired.items()}
        metrics |= {f"dense/{name}/{key}": value for key, value in summarise(dense[name]).items()}
    return metrics


def _save(plan: Plan, run: RunDirectory, built: BuiltMask | None, results: Results, dense: Results) -> dict[str, float]:
    """Write samples and persona; return the figures about the mask."""
    for name, result in results.items():
        reference = {sample["id"]: sample["values"] for sample in dense[name].samples}
        run.write_samples(name, [{**s, "dense_values": reference.get(s["id"])} for s in result.samples])
    if built is None:
        return {"mask/sparsity": 0.0, "mask/bytes": 0.0}
    size = built.mask.save(run.path / "persona.safetensors")
    return {"mask/sparsity": built.mask.sparsity, "mask/bytes": float(size)}


def _run_info(plan: Plan, directory: Path) -> RunInfo:
    tags = [plan.model.name, plan.persona.name, plan.method.name]
    return RunInfo(plan.name, plan.study, plan.method.name, tags, plan.config, directory)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
