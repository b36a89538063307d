"""What a run measures: the dense model, the persona, the masks it must beat, and the comparisons between them."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from persona_prune.common.cache import cache_path, store_json
from persona_prune.common.progress import Progress, progress_bar
from persona_prune.evaluators.base import VERSION
from persona_prune.evaluators.results import EvalResult
from persona_prune.evaluators.statistics import compared, summarise
from persona_prune.masks.applying import Masking, masked
from persona_prune.methods.baselines.prompt import SystemPrompt
from persona_prune.models.finiteness import not_finite
from persona_prune.models.loaded import LoadedModel
from persona_prune.runs.builder import Builder
from persona_prune.runs.built import Built
from persona_prune.runs.controls import Results, average_of_sound, control_masks
from persona_prune.runs.directory import RunDirectory
from persona_prune.runs.plan import Plan

log = logging.getLogger(__name__)


_QUESTION = "Who are you?"
_ASKED = 4  # prompts more, of items whose figures are no numbers


@dataclass(frozen=True)
class Arms:
    """What was measured: the dense model, the persona, the masks it must beat, and the persona under its prompt.

    ``persona`` is None where nothing is applied (``method=none``). ``wrecked`` says how many masks of a control wreck
    the model; they count only where all of its masks do; ``sparsity`` is the mean over its masks. ``broken``: where
    dense model and persona give what is no number, if they do.
    """

    dense: Results
    persona: Results | None
    controls: Mapping[str, Results]
    wrecked: Mapping[str, int]
    sparsity: Mapping[str, float]
    with_prompt: Results | None
    broken: Mapping[str, str]

    @property
    def results(self) -> Results:
        """What a run reports: the persona's, or the dense model's where nothing is applied."""
        return self.dense if self.persona is None else self.persona


def measure(plan: Plan, loaded: LoadedModel, run: RunDirectory, builder: Builder, built: Built | None) -> Arms:
    """Evaluate the dense model, the persona, the controls and the persona under its prompt."""
    if plan.with_prompt and (built is None or built.mask is None):
        log.info("with_prompt: only masks are measured under the persona's prompt as well; left out")
    with run.stage("evaluate"):
        dense = {name: _dense(plan, loaded, name) for name in plan.evaluators}
        broken = _broken("dense model", loaded, dense)
        if built is None:
            return Arms(dense, None, {}, {}, {}, None, broken)
        prompted: Results | None = None
        with built.intervention.applied(loaded) as persona:
            results = _evaluate(plan, persona, "masked" if built.mask else "persona", dense)
            broken |= _broken("persona", persona, results)
            if plan.with_prompt and built.mask is not None:
                with SystemPrompt(plan.persona.system_prompt or "").applied(persona) as spoken_to:
                    prompted = _evaluate(plan, spoken_to, "with prompt", dense)
        results = _complete(plan, loaded, results)
        prompted = prompted and _complete(plan, loaded, prompted)
    controls: dict[str, Results] = {}
    wrecked: dict[str, int] = {}
    sparsity: dict[str, float] = {}
    measurable = any(evaluator.measures_alignment for evaluator in plan.evaluators.values())
    gamma = built.intervention.gamma if isinstance(built.intervention, Masking) else 0.0
    for name, masks in control_masks(plan, loaded, builder.for_controls(), built) if measurable else ():
        with run.stage("controls"):
            found = []
            for number, mask in enumerate(masks, start=1):
                label = f"{name} {number} of {len(masks)}" if len(masks) > 1 else name
                with masked(loaded.model, mask, model_fingerprint=loaded.fingerprint, gamma=gamma):
                    results_of_mask = _evaluate(plan, loaded, label, dense)
                found.append(_complete(plan, loaded, results_of_mask))
        controls[name], wrecked[name] = average_of_sound(found)
        sparsity[name] = sum(mask.sparsity for mask in masks) / len(masks)
    return Arms(dense, results, controls, wrecked, sparsity, prompted, broken)


def _dense(plan: Plan, loaded: LoadedModel, name: str) -> EvalResult:
    """Return an evaluator's result for the dense model, from the cache if it was measured before."""
    evaluator = plan.evaluators[name]
    model = [loaded.fingerprint, loaded.arithmetic, loaded.tokenizer.chat_template]
    path = cache_path("dense", [VERSION, name, model, evaluator.identity(plan.persona)], ".json")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        result = EvalResult(stored["samples"], stored["metrics"])
        log.info("%s (dense): from the cache", name)
    except (OSError, ValueError, KeyError):
        result = evaluator.evaluate(loaded, plan.persona, None, _progress("dense"))
        result = evaluator.complete(loaded, result, _progress("dense"))
        store_json(path, {"samples": list(result.samples), "metrics": dict(result.metrics)})
    return result


def _evaluate(plan: Plan, loaded: LoadedModel, label: str, dense: Results) -> Results:
    return {
        name: evaluator.evaluate(loaded, plan.persona, dense[name], _progress(label))
        for name, evaluator in plan.evaluators.items()
    }


def _complete(plan: Plan, loaded: LoadedModel, results: Results) -> Results:
    """Return the results with what needs the dense model, which ``loaded`` is again."""
    return {
        name: plan.evaluators[name].complete(loaded, result, _progress("dense")) for name, result in results.items()
    }


def _broken(arm: str, loaded: LoadedModel, results: Results) -> dict[str, str]:
    """Return where the model, as it stands, first gives what is no number, by ``arm``; nothing if it gives numbers.

    Asked at least one question in any case: what picks the likeliest token gives figures even then.
    """
    asked = [
        str(sample["prompt"])
        for result in results.values()
        for sample in result.samples
        if "prompt" in sample and not all(math.isfinite(v) for v in sample["values"].values() if v is not None)
    ]
    where = not_finite(loaded, [_QUESTION, *asked[:_ASKED]])
    return {} if where is None else {arm: where}


def _progress(model: str) -> Progress:
    return lambda label, total: progress_bar(f"{label} ({model})", total)


def metrics_of(arms: Arms) -> dict[str, float]:
    """Return the flat figures of every evaluator: this model's, the dense model's and the controls', and comparisons.

    ``<metric>_delta`` and ``<metric>_p`` are against the dense model, ``<metric>_vs_<control>`` and
    ``<metric>_vs_<control>_p`` against a control. ``with_prompt/`` stands before those of the mask under the persona's
    prompt, which is compared with the dense model and with the mask alone, ``<metric>_vs_mask``.
    """
    metrics: dict[str, float] = {}
    for name, result in arms.results.items():
        metrics |= {f"{name}/{key}": value for key, value in summarise(result).items()}
        if arms.persona is not None:
            metrics |= compared(name, result, arms.dense[name], "delta", "p")
        metrics |= {f"dense/{name}/{key}": value for key, value in summarise(arms.dense[name]).items()}
    for control, results in arms.controls.items():
        metrics |= {f"{control}/wrecked": float(arms.wrecked[control]), f"{control}/sparsity": arms.sparsity[control]}
        for name, reference in results.items():
            metrics |= {f"{control}/{name}/{key}": value for key, value in summarise(reference).items()}
            metrics |= compared(name, arms.results[name], reference, f"vs_{control}", f"vs_{control}_p")
    for name, result in (arms.with_prompt or {}).items():
        metrics |= {f"with_prompt/{name}/{key}": value for key, value in summarise(result).items()}
        metrics |= compared(f"with_prompt/{name}", result, arms.dense[name], "delta", "p")
        metrics |= compared(f"with_prompt/{name}", result, arms.results[name], "vs_mask", "vs_mask_p")
    return metrics
