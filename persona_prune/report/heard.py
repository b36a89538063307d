"""What the model says now, dense beside persona: which answers are shown, by rule, and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from persona_prune.evaluators.results import EvalResult

TRUSTED = 0.8  # AUC on written pairs below which a judge's figures are no ground for a verdict
_LENGTH = 300


@dataclass(frozen=True)
class Shown:
    """A prompt with the dense model's greedy answer and the persona's, and what the judges make of the latter."""

    prompt: str
    dense: str | None
    persona: str
    heard: float


def median_answers(result: EvalResult, count: int) -> list[Shown]:
    """Return the ``count`` prompts whose greedy answers the judges put in the middle, from least to most persona.

    Neither the best nor the first: half of all answers are better, half worse. Ties go by the prompt's number.
    """
    ranked = sorted(result.samples, key=lambda sample: (sample["answer_persona"], sample["id"]))
    start = max(0, (len(ranked) - count) // 2)
    return [_shown(sample) for sample in ranked[start : start + count]]


def all_answers(result: EvalResult) -> list[Shown]:
    """Return every prompt, in the order in which they were asked."""
    return [_shown(sample) for sample in result.samples]


def _shown(sample: Mapping[str, Any]) -> Shown:
    return Shown(sample["prompt"], sample.get("dense_answer"), sample["answer"], sample["answer_persona"])


def answer_lines(shown: Sequence[Shown]) -> list[str]:
    """Return the lines that a run ends with: a few prompts, what the dense model says and what the persona says."""
    lines = []
    for one in shown:
        lines.append(f"  > {_short(one.prompt)}")
        if one.dense is not None:
            lines.append(f"    dense:   {_short(one.dense)}")
        lines.append(f"    persona: {_short(one.persona)}")
    return lines


def _short(text: str) -> str:
    flat = " ".join(text.split()) or "(nothing)"
    return flat if len(flat) <= _LENGTH else f"{flat[: _LENGTH - 3]}..."


def trusted(metrics: Mapping[str, float]) -> bool:
    """Return whether the judges tell written answers apart well enough to say anything."""
    return metrics.get("speech/judge_auc", 0.0) >= TRUSTED


def speech_verdict(metrics: Mapping[str, float]) -> list[str]:
    """Say in words whether the persona is heard, one sentence each; nothing where no speech was measured."""
    if "speech/expressed" not in metrics:
        return []
    if not trusted(metrics):
        return [
            f"No verdict on what it says: the judges tell written answers apart with an AUC of "
            f"{metrics.get('speech/judge_auc', 0.0):.2f} only, {TRUSTED:.2f} is asked for. Read the answers."
        ]
    expressed = metrics["speech/expressed"]
    written = metrics.get("speech/written_expressed")
    scale = "" if written is None else f"; of answers written in persona, {written:.0%}"
    if "speech/expressed_delta" not in metrics:
        return [f"The persona is heard in {expressed:.0%} of its answers{scale}."]
    low, high = metrics["speech/expressed_delta_low"], metrics["speech/expressed_delta_high"]
    more = "more than" if low > 0 else "less than" if high < 0 else "no more, as far as this shows, than"
    return [
        f"The persona is heard in {expressed:.0%} of its answers, {more} in the dense model's "
        f"({metrics['dense/speech/expressed']:.0%}; difference {metrics['speech/expressed_delta']:+.2f} "
        f"[{low:+.2f}, {high:+.2f}], p = {metrics['speech/expressed_p']:.2g}){scale}.",
        f"Judges give its answers {metrics['speech/persona']:.2f}, the dense model's "
        f"{metrics['dense/speech/persona']:.2f}, written ones {metrics['speech/written_persona']:.2f}; "
        f"{metrics['speech/coherent']:.0%} are coherent (dense {metrics['dense/speech/coherent']:.0%}).",
    ]


@dataclass(frozen=True)
class Trait:
    """How far one axis moved: probability of its matching pole, masked and dense, and the paired difference."""

    name: str
    masked: float
    dense: float
    change: float
    low: float
    high: float


def moved_traits(metrics: Mapping[str, float]) -> list[Trait]:
    """Return the axes that judges heard, the one asked for first, the others by how far they moved."""
    own = ["speech/persona"] if "speech/persona_delta" in metrics else []
    others = [key for key in metrics if key.startswith("speech/trait_") and f"{key}_delta" in metrics]
    others.sort(key=lambda key: -abs(metrics[f"{key}_delta"]))
    return [
        Trait(
            "the persona" if key == "speech/persona" else key.removeprefix("speech/trait_").replace("_", " / "),
            metrics[key],
            metrics[f"dense/{key}"],
            metrics[f"{key}_delta"],
            metrics[f"{key}_delta_low"],
            metrics[f"{key}_delta_high"],
        )
        for key in own + others
    ]


def judge_table(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return what is known of the judges, as label and figure: AUC on written pairs, rivals, the second format."""
    labels = {
        "judge_auc": "both judges together",
        "judge_auc_vectors": "the judge of sentence vectors",
        "judge_auc_ngrams": "the judge of character n-grams",
        "judge_auc_statements": "both, on statements of a questionnaire (another format)",
        "judge_auc_length": "a rival that sees the length only",
        "judge_auc_first_word": "a rival that sees the first word only",
        "judge_auc_shuffled": "a rival that learned from shuffled labels",
    }
    found = [(label, metrics.get(f"speech/{key}")) for key, label in labels.items()]
    return [(label, f"{value:.2f}") for label, value in found if value is not None]
