"""One run: model + persona -> signatures -> mask -> masked model -> evaluators -> metrics, samples, report."""

import hashlib
import json
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from persona_prune.apply import Masking, masked
from persona_prune.baselines.prompt import SystemPrompt
from persona_prune.config import Plan
from persona_prune.doubts import doubts
from persona_prune.evaluators.base import VERSION, EvalResult, Progress
from persona_prune.mask_building import Builder, Built
from persona_prune.models import LoadedModel, cache_root
from persona_prune.run_directory import (
    RunDirectory,
    finished,
    one_line,
    open_run_directory,
    peak_memory_mb,
    reset_peak_memory,
    write_text,
)
from persona_prune.statistics import average, compare, summarise
from persona_prune.tracking import RunInfo
from persona_prune.verdict import WRECKED

log = logging.getLogger(__name__)

Results = dict[str, EvalResult]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its metrics, or the one line that says why it failed; ``skipped`` if it was done already."""

    metrics: Mapping[str, float]
    error: str | None
    skipped: bool = False


def run_experiment(plan: Plan, overrides: Sequence[str], *, skip_done: bool) -> Outcome:
    """Run ``plan`` and leave its directory behind; errors end up in the outcome, the log and the status file.

    With ``skip_done``, a run of the same configuration that is finished already is left as it is.
    """
    if skip_done:
        done = finished(plan.directory, plan.config_hash)
        if done is not None:
            (plan.directory / "status.json").touch()  # by its time, tables find the runs that were last asked for
            log.info("%s: done already, skipped", plan.directory)
            return Outcome(done, None, skipped=True)
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
        builder = Builder(plan, loaded, run)
        built = builder.build()
        arms = _measure(plan, loaded, run, builder, built)
        metrics = _metrics(arms)
        metrics |= _save(run, built, arms)
        metrics |= {f"time/{stage}_s": seconds for stage, seconds in run.seconds.items()}
        metrics |= {"time/total_s": time.perf_counter() - started, "memory/peak_mb": peak_memory_mb()}
        run.write_json("metrics.json", metrics)
        from persona_prune.report.run_page import RunFacts, run_page, summary_lines  # matplotlib takes its time

        page = run_page(
            RunFacts(
                plan.name,
                plan.config,
                metrics,
                arms.results,
                arms.dense,
                list(arms.controls),
                built.mask if built else None,
                built.opposite if built else None,
            )
        )
        write_text(run.path / "report.html", page)
        run.complete = True
    except BaseException as error:
        tracked.fail("interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error))
        raise
    log.info("%s", summary_lines(plan.name, metrics, list(arms.controls)))
    for doubt in doubts(metrics):
        log.warning("  ! %s", doubt)
    log.info("report: %s", run.path / "report.html")
    tracked.finish(metrics, builder.made_from)  # last, as it may wait for the network
    return metrics


@dataclass(frozen=True)
class Arms:
    """What was measured: the dense model, the persona, the masks it must beat, and the persona under its prompt.

    ``wrecked`` says how many masks of a control wreck the model; they count only where all of its masks do;
    ``sparsity`` is the mean over its masks.
    """

    dense: Results
    results: Results
    controls: Mapping[str, Results]
    wrecked: Mapping[str, int]
    sparsity: Mapping[str, float]
    with_prompt: Results | None


def _measure(plan: Plan, loaded: LoadedModel, run: RunDirectory, builder: Builder, built: Built | None) -> Arms:
    if plan.with_prompt and (built is None or built.mask is None):
        log.info("with_prompt: only masks are measured under the persona's prompt as well; left out")
    with run.stage("evaluate"):
        dense = {name: _dense(plan, loaded, run, name) for name in plan.evaluators}
        if built is None:
            return Arms(dense, dense, {}, {}, {}, None)
        prompted: Results | None = None
        with built.intervention.applied(loaded) as persona:
            results = _evaluate(plan, persona, run, "masked" if built.mask else "persona", dense)
            if plan.with_prompt and built.mask is not None:
                with SystemPrompt(plan.persona.system_prompt or "").applied(persona) as spoken_to:
                    prompted = _evaluate(plan, spoken_to, run, "with prompt", dense)
    controls: dict[str, Results] = {}
    wrecked: dict[str, int] = {}
    sparsity: dict[str, float] = {}
    measurable = any(evaluator.measures_alignment for evaluator in plan.evaluators.values())
    gamma = built.intervention.gamma if isinstance(built.intervention, Masking) else 0.0
    for name, masks in builder.controls(built) if measurable else ():
        with run.stage("controls"):
            found = []
            for number, mask in enumerate(masks, start=1):
                label = f"{name} {number} of {len(masks)}" if len(masks) > 1 else name
                with masked(loaded.model, mask, model_fingerprint=loaded.fingerprint, gamma=gamma):
                    found.append(_evaluate(plan, loaded, run, label, dense))
        controls[name], wrecked[name] = average_of_sound(found)
        sparsity[name] = sum(mask.sparsity for mask in masks) / len(masks)
    return Arms(dense, results, controls, wrecked, sparsity, prompted)


def average_of_sound(found: Sequence[Results]) -> tuple[Results, int]:
    """Return the average of a control's masks that don't wreck the model, and how many do; of all if all do."""
    sound = [
        results
        for results in found
        if all(result.metrics.get("perplexity_ratio", 1.0) <= WRECKED for result in results.values())
    ]
    averaged = {evaluator: average([results[evaluator] for results in sound or found]) for evaluator in found[0]}
    return averaged, len(found) - len(sound)


def _dense(plan: Plan, loaded: LoadedModel, run: RunDirectory, name: str) -> EvalResult:
    """Return an evaluator's result for the dense model, from the cache if it was measured before."""
    evaluator = plan.evaluators[name]
    model = [loaded.fingerprint, loaded.arithmetic, loaded.tokenizer.chat_template]
    identity = json.dumps([VERSION, name, model, evaluator.identity(plan.persona)])
    path = cache_root() / "dense" / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        result = EvalResult(stored["samples"], stored["metrics"])
        log.info("%s (dense): from the cache", name)
    except (OSError, ValueError, KeyError):
        result = evaluator.evaluate(loaded, plan.persona, None, _progress(run, "dense"))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"samples": list(result.samples), "metrics": dict(result.metrics)}))
    return result


def _evaluate(plan: Plan, loaded: LoadedModel, run: RunDirectory, label: str, dense: Results) -> Results:
    return {
        name: evaluator.evaluate(loaded, plan.persona, dense[name], _progress(run, label))
        for name, evaluator in plan.evaluators.items()
    }


def _progress(run: RunDirectory, model: str) -> Progress:
    return lambda label, total: run.progress(f"{label} ({model})", total)


def _metrics(arms: Arms) -> dict[str, float]:
    """Return the flat figures of every evaluator: this model's, the dense model's and the controls', and comparisons.

    ``<metric>_delta`` and ``<metric>_p`` are against the dense model, ``<metric>_vs_<control>`` and
    ``<metric>_vs_<control>_p`` against a control. ``with_prompt/`` stands before those of the mask under the persona's
    prompt, which is compared with the dense model and with the mask alone, ``<metric>_vs_mask``.
    """
    metrics: dict[str, float] = {}
    for name, result in arms.results.items():
        metrics |= {f"{name}/{key}": value for key, value in summarise(result).items()}
        if result is not arms.dense[name]:
            metrics |= _compared(name, result, arms.dense[name], "delta", "p")
        metrics |= {f"dense/{name}/{key}": value for key, value in summarise(arms.dense[name]).items()}
    for control, results in arms.controls.items():
        metrics |= {f"{control}/wrecked": float(arms.wrecked[control]), f"{control}/sparsity": arms.sparsity[control]}
        for name, reference in results.items():
            metrics |= {f"{control}/{name}/{key}": value for key, value in summarise(reference).items()}
            metrics |= _compared(name, arms.results[name], reference, f"vs_{control}", f"vs_{control}_p")
    for name, result in (arms.with_prompt or {}).items():
        metrics |= {f"with_prompt/{name}/{key}": value for key, value in summarise(result).items()}
        metrics |= _compared(f"with_prompt/{name}", result, arms.dense[name], "delta", "p")
        metrics |= _compared(f"with_prompt/{name}", result, arms.results[name], "vs_mask", "vs_mask_p")
    return metrics


def _compared(name: str, result: EvalResult, reference: EvalResult, label: str, p_label: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    for metric, found in compare(result, reference).items():
        key = f"{name}/{metric}_{label}"
        figures |= {key: found.delta, f"{key}_low": found.low, f"{key}_high": found.high}
        figures[f"{name}/{metric}_{p_label}"] = found.p
        if label == "delta" and np.isfinite(found.effect):
            figures[f"{name}/{metric}_effect"] = found.effect
    return figures


def _save(run: RunDirectory, built: Built | None, arms: Arms) -> dict[str, float]:
    """Write samples and persona; return the figures about the mask."""
    for name, result in arms.results.items():
        others = (
            {"dense": arms.dense}
            | dict(arms.controls)
            | ({"with_prompt": arms.with_prompt} if arms.with_prompt else {})
        )
        values = {
            arm: {sample["id"]: sample["values"] for sample in results[name].samples}
            for arm, results in others.items()
            if name in results
        }
        # What the other arms said, where they were asked to speak: the dense answers are there already.
        said = {
            arm: {sample["id"]: sample["answer"] for sample in results[name].samples if "sampled_answers" in sample}
            for arm, results in others.items()
            if arm != "dense" and name in results
        }
        rows = [
            {
                **s,
                **{f"{arm}_answer": of[s["id"]] for arm, of in said.items() if s["id"] in of},
                **{f"{arm}_values": of.get(s["id"]) for arm, of in values.items()},
            }
            for s in result.samples
        ]
        run.write_samples(name, rows)
    if built is None:
        return {"mask/sparsity": 0.0, "mask/bytes": 0.0}
    size = built.save(run.path / "persona.safetensors")
    figures = {"mask/sparsity": built.mask.sparsity if built.mask else 0.0, "mask/bytes": float(size)}
    if built.mask is not None:
        figures["mask/bits_bytes"] = float(built.intervention.bytes)
    if built.gradient is not None:
        # Also where it came from the cache.
        figures["mask/build_s"] = float(str(built.gradient.mask.description["build_s"]))
    return figures


def _run_info(plan: Plan, directory: Path) -> RunInfo:
    tags = [plan.model.name, plan.persona.name, plan.method.name]
    return RunInfo(plan.name, plan.study, plan.method.name, tags, plan.config, plan.config_hash, directory)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
