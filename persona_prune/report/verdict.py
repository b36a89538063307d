"""What a run's figures say, in words: is there a shift, what does it cost, does it survive the controls?"""

import math
from collections.abc import Mapping, Sequence

from persona_prune.report.doubts import doubts
from persona_prune.report.heard import speech_verdict

WRECKED = 1.5  # perplexity ratio beyond which a two-way choice says nothing


def verdict(metrics: Mapping[str, float], controls: Sequence[str]) -> list[str]:
    """Say in words what the figures do and don't show, one sentence each."""
    sentences = speech_verdict(metrics)
    if math.isfinite(metrics.get("choice/margin_delta", math.nan)):
        delta, low, high = (metrics[f"choice/margin_delta{end}"] for end in ("", "_low", "_high"))
        if low > 0:
            text = "The model moves towards the persona"
        elif high < 0:
            text = "The model moves away from the persona"
        else:
            text = "No shift towards or away from the persona is shown"
        sentences.append(f"{text}: margin {delta:+.3f} nats per token against dense [{low:+.3f}, {high:+.3f}].")
    if not math.isnan(metrics.get("capability/perplexity_ratio", math.nan)):
        ratio = metrics["capability/perplexity_ratio"]
        cost = "little" if ratio <= 1.05 else "noticeably" if ratio <= WRECKED else "badly"
        if math.isclose(ratio, 1.0, rel_tol=1e-9):
            sentences.append(
                "Perplexity is the dense model's: on plain text, which nothing is put before, they are one."
            )
        else:
            sentences.append(f"It costs general ability {cost}: perplexity {ratio:.3g} times the dense model's.")
        if ratio > WRECKED:
            sentences.append("At that cost the choice figures say nothing about a persona.")
    if math.isfinite(metrics.get("capability/neutral_drift", math.nan)):
        drift = metrics["capability/neutral_drift"]
        change = f"lose {drift:.3f}" if drift >= 0 else f"gain {-drift:.3f}"
        sentences.append(f"On neutral prompts the dense model's own answers {change} nats per token.")
    return [*sentences, *doubts(metrics), *_survival(metrics, controls)]


_HARDLY_ANY = 0.1  # a control that drops less than this share of what the mask drops is nearly the dense model
_CONTROL_WORDS = {
    "random": "random masks that drop as many weights of every row",
    "magnitude": "the mask that drops as many of the smallest weights",
    "generic": "the same method on pairs whose labels say nothing about the persona",
    "opposite": "the opposite persona's mask",
}


def _survival(metrics: Mapping[str, float], controls: Sequence[str]) -> list[str]:
    """Say in words whether the effect is more than what each control mask does."""
    compared = [name for name in controls if f"choice/margin_vs_{name}" in metrics]
    shifted = metrics.get("choice/margin_delta_low", 0.0) > 0
    if not compared or not shifted or not metrics.get("capability/perplexity_ratio", 1.0) <= WRECKED:
        return []  # there is no effect that could survive
    sentences = []
    beaten = []
    for name in list(compared):
        ratio = metrics.get(f"{name}/capability/perplexity_ratio", 1.0)
        if not ratio <= WRECKED:
            compared.remove(name)
            sentences.append(
                f"Nothing follows from the comparison with {_CONTROL_WORDS[name]}: at a perplexity ratio of "
                f"{ratio:.3g} what a model chooses says nothing."
            )
            continue
        dropped, own = metrics.get(f"{name}/sparsity", 1.0), metrics.get("mask/sparsity", 0.0)
        if dropped < _HARDLY_ANY * own:
            compared.remove(name)
            sentences.append(
                f"Nothing follows from the comparison with {_CONTROL_WORDS[name]}: it found hardly anything to drop, "
                f"{dropped:.2%} of the weights where the persona's mask drops {own:.2%}."
            )
            continue
        key = f"choice/margin_vs_{name}"
        low, p = metrics[f"{key}_low"], metrics[f"{key}_p"]
        if low > 0 and p < 0.05:
            beaten.append(name)
        words = "survives" if name in beaten else "does not survive"
        if wrecked := metrics.get(f"{name}/wrecked"):
            sentences.append(f"Masks of {name} that wreck the model, and so don't count: {wrecked:.0f}.")
        sentences.append(
            f"The effect {words} the comparison with {_CONTROL_WORDS[name]}: margin {metrics[key]:+.3f} "
            f"[{low:+.3f}, {metrics[f'{key}_high']:+.3f}], p = {p:.2g}."
        )
    if not compared:
        sentences.append("So nothing shows whether the shift is specific to this persona.")
    elif len(beaten) == len(compared):
        sentences.append("So the shift is specific to this persona, as far as these controls can tell.")
    else:
        lost = ", ".join(name for name in compared if name not in beaten)
        sentences.append(f"So a persona-specific effect is not shown: it is not larger than {lost}.")
    return sentences


def control_table(metrics: Mapping[str, float], controls: Sequence[str]) -> list[dict[str, str]]:
    """Return one row a control and metric: its own figure, and masked minus control."""
    rows = []
    for control in controls:
        for metric in ("accuracy", "accuracy_norm", "accuracy_content", "margin"):
            own, effect = f"{control}/choice/{metric}", f"choice/{metric}_vs_{control}"
            if own in metrics and effect in metrics:
                rows.append(
                    {
                        "control": control,
                        "metric": metric,
                        "value": f"{metrics[own]:.3f}{interval(metrics, own)}",
                        "effect": f"{metrics[effect]:+.3f}{interval(metrics, effect)}",
                        "p": f"{metrics[f'{effect}_p']:.2g}",
                    }
                )
        for metric in ("perplexity_ratio", "neutral_drift"):
            own = f"{control}/capability/{metric}"
            if own in metrics:
                value = f"{metrics[own]:.3f}{interval(metrics, own)}"
                rows.append({"control": control, "metric": metric, "value": value, "effect": "", "p": ""})
    return rows


def interval(metrics: Mapping[str, float], key: str) -> str:
    """Return the 95% interval of a figure in brackets; nothing where it has none."""
    if f"{key}_low" not in metrics:
        return ""
    return f" [{metrics[f'{key}_low']:.3f}, {metrics[f'{key}_high']:.3f}]"
