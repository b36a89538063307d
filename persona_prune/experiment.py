"""One run: model + persona -> signatures -> mask -> masked model -> evaluators -> metrics, samples, report."""

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from persona_prune import report
from persona_prune.apply import masked
from persona_prune.config import Plan
from persona_prune.evaluators.base import EvalResult
from persona_prune.mask_building import BuiltMask, build_mask
from persona_prune.models import LoadedModel
from persona_prune.run_directory import (
    RunDirectory,
    one_line,
    open_run_directory,
    peak_memory_mb,
    reset_peak_memory,
    write_text,
)
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


def run_experiment(plan: Plan, overrides: Sequence[str]) -> Outcome:
    """Run ``plan`` and leave its directory behind; errors end up in the outcome, the log and the status file."""
    try:
        with open_run_directory(plan.directory, plan.config, plan.config_hash, overrides) as run:
            metrics = _run(plan, run)
    except Exception as error:
        details = plan.directory / "run.log"
        log.error("error: %s%s", one_line(error), f" (details in {details})" if details.exists() else "")
        return Outcome({}, one_line(error))
    return Outcome(metrics, None)


def _run(plan: Plan, run: RunDirectory) -> dict[str, float]:
    started = time.perf_counter()
    _seed_everything(plan.seed)
    reset_peak_memory()
    log.info("%s -> %s", plan.name, run.path)
    tracked = plan.tracker.start(_run_info(plan, run.path))
    try:
        with run.stage("load"):
            loaded = plan.model.load()
        built = build_mask(plan, loaded, run)
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
    return RunInfo(f"{plan.name}-{plan.config_hash[:6]}", plan.study, plan.method.name, tags, plan.config, directory)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
