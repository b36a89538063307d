"""What a person reads of one run: its closing lines, and one self-contained HTML page."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from persona_prune.evaluators.results import EvalResult
from persona_prune.evaluators.statistics import item_values
from persona_prune.masks.mask import Mask, difference
from persona_prune.personas.persona import about
from persona_prune.report.heard import all_answers, judge_table, median_answers, moved_traits
from persona_prune.report.pages import environment
from persona_prune.report.plot_style import DENSE, INK, MASKED, plotting, svg
from persona_prune.report.verdict import WRECKED, control_table, interval, verdict

_UNNAMED = ("questionnaire", "lm_eval")  # evaluators whose figures depend on what they ask
_TABLED_APART = ("trait_", "judge_", "rival_", "written_", "prompts")  # figures of speech
_ANSWERS = 6  # shown on top


@dataclass(frozen=True)
class RunFacts:
    """Everything a run's page is made from; ``broken`` are sentences on what is no number, and where."""

    name: str
    config: Mapping[str, Any]
    metrics: Mapping[str, float]
    results: Mapping[str, EvalResult]
    dense: Mapping[str, EvalResult]
    controls: Sequence[str]
    mask: Mask | None
    opposite: Mask | None
    broken: Sequence[str]


def summary_lines(name: str, metrics: Mapping[str, float], controls: Sequence[str]) -> str:
    """Return the few lines a run ends with: accuracy, margin, perplexity against dense, effect over controls."""
    lines = [name]
    for key, label in (
        ("speech/expressed", "persona heard"),
        ("speech/persona", "... by the judges"),
        ("speech/coherent", "coherent answers"),
        ("choice/accuracy", "accuracy"),
        ("choice/accuracy_norm", "accuracy per token"),
        ("choice/margin", "margin"),
        ("choice/matching_log_prob", "own answers"),
        ("multiple_choice/accuracy", "several options"),
        ("multiple_choice/accuracy_norm", "... per token"),
        ("multiple_choice/margin", "... margin"),
        ("capability/perplexity", "perplexity"),
    ):
        if key in metrics:
            line = f"  {label:<20}{metrics[key]:>9.3f}{interval(metrics, key)}   dense {metrics[f'dense/{key}']:.3f}"
            if f"{key}_p" in metrics:
                line += f"   p = {metrics[f'{key}_p']:.2g}"
            if key == "capability/perplexity" and "capability/perplexity_ratio" in metrics:
                line += f"   ratio {metrics['capability/perplexity_ratio']:.3f}"
            lines.append(line)
    if "capability/neutral_drift" in metrics:
        lines.append(f"  {'neutral drift':<20}{metrics['capability/neutral_drift']:>9.3f} nats per token")
    counts = Counter(key.partition("/")[0] for key in metrics)
    lines += [f"  {counts[name]} figures of {name} in metrics.json and the report" for name in _UNNAMED if counts[name]]
    compared = [("speech/persona", "heard"), ("choice/margin", "margin")]
    for control, (metric, label) in itertools.product(controls, compared):
        key = f"{metric}_vs_{control}"
        if key in metrics:
            line = f"  {f'{label} - {control}':<20}{metrics[key]:>+9.3f}{interval(metrics, key)}"
            line += f"   p = {metrics[f'{key}_p']:.2g}"
            ratio = metrics.get(f"{control}/capability/perplexity_ratio", 1.0)
            if not ratio <= WRECKED:
                line += f"   (nothing follows: a wreck, ratio {ratio:.3g})"
            elif wrecked := metrics.get(f"{control}/wrecked"):
                line += f"   (without {wrecked:.0f} that wreck the model)"
            lines.append(line)
    return "\n".join(lines)


def _persona(node: Mapping[str, Any]) -> str:
    name = f"{node['name']}-flipped" if node["flip"] else node["name"]
    return f"{name}: {about(node['name'], node['description'], flip=node['flip'])}"


def run_page(facts: RunFacts) -> str:
    """Return the HTML page of one run."""
    return (
        environment()
        .get_template("run.html")
        .render(
            name=facts.name,
            persona=_persona(facts.config["persona"]),
            rows=_table(facts.metrics, facts.results),
            verdict=[*facts.broken, *verdict(facts.metrics, facts.controls)],
            controls=control_table(facts.metrics, facts.controls),
            plots=_plots(facts),
            examples=_examples(facts),
            heard=median_answers(facts.results["speech"], _ANSWERS) if "speech" in facts.results else [],
            spoken=all_answers(facts.results["speech"]) if "speech" in facts.results else [],
            traits=moved_traits(facts.metrics),
            judges=judge_table(facts.metrics),
            config=yaml.safe_dump(dict(facts.config), sort_keys=False),
            facts=_facts(facts),
        )
    )


def _table(metrics: Mapping[str, float], results: Mapping[str, EvalResult]) -> list[dict[str, str]]:
    """Return one row a metric, masked beside dense, with intervals, difference and p-value."""
    rows = []
    for evaluator, result in results.items():
        for metric in [*result.means(), *result.metrics]:
            if metric.startswith(_TABLED_APART):
                continue
            key = f"{evaluator}/{metric}"
            dense = f"dense/{key}"
            delta = f"{key}_delta"
            rows.append(
                {
                    "metric": key,
                    "masked": f"{metrics[key]:.3f}{interval(metrics, key)}",
                    "dense": f"{metrics[dense]:.3f}{interval(metrics, dense)}" if dense in metrics else "",
                    "delta": f"{metrics[delta]:+.3f}{interval(metrics, delta)}" if delta in metrics else "",
                    "p": f"{metrics[f'{key}_p']:.2g}" if f"{key}_p" in metrics else "",
                }
            )
    return rows


def _facts(facts: RunFacts) -> list[tuple[str, str]]:
    metrics = facts.metrics
    shown = [("time, total", f"{metrics['time/total_s']:.1f} s")]
    shown += [
        (f"time, {key.removeprefix('time/').removesuffix('_s')}", f"{value:.1f} s")
        for key, value in metrics.items()
        if key.startswith("time/") and key != "time/total_s"
    ]
    shown.append(("peak memory", f"{metrics['memory/peak_mb']:.0f} MB"))
    if facts.mask is not None:
        shown.append(("weights dropped", f"{facts.mask.sparsity:.2%} of {facts.mask.weights:,}"))
        shown.append(("persona file", f"{metrics['mask/bytes'] / 1e6:.2f} MB"))
    return shown


def _examples(facts: RunFacts) -> list[dict[str, Any]]:
    """Return the items whose margin the mask moved most, in both directions."""
    if "choice" not in facts.results or facts.results["choice"] is facts.dense["choice"]:
        return []
    before = item_values(facts.dense["choice"].samples, "margin")
    moved = [
        {**sample, "dense_margin": before[sample["id"]], "masked_margin": sample["values"]["margin"]}
        for sample in facts.results["choice"].samples
    ]
    moved.sort(key=lambda item: item["masked_margin"] - item["dense_margin"])
    return [*moved[::-1][:3], *moved[:3]] if len(moved) > 6 else moved


def _plots(facts: RunFacts) -> list[tuple[str, Markup]]:
    plots = []
    with plotting():
        if "choice" in facts.results:
            plots.append(("Margin of every item, matching minus not matching", _margins(facts)))
        if facts.mask is not None:
            plots.append(("Weights dropped, by layer", _by_layer(_sparsities(facts.mask), "share dropped")))
        if facts.mask is not None and facts.opposite is not None:
            changed = difference(facts.mask, facts.opposite)
            plots.append(
                (
                    "Difference from the opposite persona's mask, by layer",
                    _by_layer(changed, "share that differs"),
                )
            )
    return plots


def _margins(facts: RunFacts) -> Markup:
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.add_subplot()
    series = {"dense": item_values(facts.dense["choice"].samples, "margin")}
    if facts.results["choice"] is not facts.dense["choice"]:
        series["masked"] = item_values(facts.results["choice"].samples, "margin")
    series = {label: {i: v for i, v in items.items() if math.isfinite(v)} for label, items in series.items()}
    values = np.concatenate([[0.0], *(list(items.values()) for items in series.values())])
    edges = np.linspace(values.min(), values.max() + 1e-9, 25).tolist()
    for label, items in series.items():
        axes.hist(list(items.values()), edges, alpha=0.6, label=label, color=DENSE if label == "dense" else MASKED)
    axes.axvline(0, color=INK, linewidth=1, linestyle=":")
    axes.set_xlabel("log-probability per token, matching minus not matching (nats)")
    axes.set_ylabel("items")
    axes.legend(frameon=False)
    return svg(figure)


def _sparsities(mask: Mask) -> dict[str, float]:
    return {name: mask.sparsity_of(name) for name in mask.shapes}


def _by_layer(shares: Mapping[str, float], label: str) -> Markup:
    """Plot a share by layer, attention and MLP Linears apart."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes: Axes = figure.add_subplot()
    for kind, colour in (("attention", MASKED), ("MLP", DENSE)):
        points: dict[int, list[float]] = {}
        for name, share in shares.items():
            if ("mlp" in name) == (kind == "MLP"):
                points.setdefault(_layer(name), []).append(share)
        if points:
            axes.plot(
                sorted(points),
                [float(np.mean(points[i])) for i in sorted(points)],
                "o-",
                ms=3,
                color=colour,
                label=kind,
            )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer")
    axes.set_ylabel(label)
    axes.legend(frameon=False)
    return svg(figure)


def _layer(name: str) -> int:
    numbers: Sequence[str] = [part for part in name.split(".") if part.isdigit()]
    return int(numbers[0]) if numbers else 0
