"""One run: model + persona -> signatures -> mask -> masked model -> evaluators -> metrics, samples, report."""

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from persona_prune.common.errors import one_line
from persona_prune.common.text_files import write_text
from persona_prune.models.devices import peak_memory_mb, reset_peak_memory
from persona_prune.report.doubts import doubts, not_computed, overflow
from persona_prune.runs.arms import Arms, measure, metrics_of
from persona_prune.runs.builder import Builder
from persona_prune.runs.built import Built
from persona_prune.runs.directory import RunDirectory, finished, open_run_directory
from persona_prune.runs.plan import Plan
from persona_prune.runs.texts import refuse_control_tokens_in
from persona_prune.runs.tracking.base import RunInfo

log = logging.getLogger(__name__)

_SHOWN = 3  # prompts whose answers are printed


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
        refuse_control_tokens_in(plan, loaded.tokenizer)
        builder = Builder(plan, loaded, run)
        built = builder.build()
        arms = measure(plan, loaded, run, builder, built)
        metrics = metrics_of(arms)
        metrics |= _save(run, built, arms)
        metrics |= {f"time/{stage}_s": seconds for stage, seconds in run.seconds.items()}
        metrics |= {"time/total_s": time.perf_counter() - started, "memory/peak_mb": peak_memory_mb()}
        run.write_json("metrics.json", metrics)
        broken = [overflow(arm, where) for arm, where in arms.broken.items()]
        from persona_prune.report.heard import answer_lines, median_answers
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
                broken,
            )
        )
        write_text(run.path / "report.html", page)
        run.complete = True
    except BaseException as error:
        tracked.fail("interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error))
        raise
    log.info("%s", summary_lines(plan.name, metrics, list(arms.controls)))
    if "speech" in arms.results:
        log.info("%s", "\n".join(answer_lines(median_answers(arms.results["speech"], _SHOWN))))
    for doubt in (*broken, *doubts(metrics)):
        log.warning("  ! %s", doubt)
    log.info("report: %s", run.path / "report.html")
    missing = not_computed(metrics)
    if missing or broken:
        what = f"{' and '.join(missing)} can't be computed" if missing else "the figures mean nothing"
        problem = f"{what}. {broken[0] if broken else 'Set model.dtype=float32.'}"
        tracked.fail(problem)
        raise ValueError(problem)
    tracked.finish(metrics, builder.made_from)  # last, as it may wait for the network
    return metrics


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
        if "build_s" in built.mask.description:  # also where it came from the cache
            figures["mask/build_s"] = float(str(built.mask.description["build_s"]))
    return figures


def _run_info(plan: Plan, directory: Path) -> RunInfo:
    tags = [plan.model.name, plan.persona.name, plan.method.name]
    return RunInfo(
        plan.name, plan.study, plan.method.name, tags, plan.config, plan.config_hash, directory, plan.one_of_several
    )


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
