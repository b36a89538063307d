"""Reasons not to take a run's figures for a persona, each told from the figures themselves."""

import math
import re
from collections.abc import Iterator, Mapping

_OWN_LOSS = 0.5  # nats per token that the persona's own answers may lose before the opposite's loss explains a margin
_HABIT = 0.9  # share of items beyond which one answer is a habit, whatever is asked
_ITEMS = 0.1  # share of a questionnaire's variance below which the statements hardly matter
_UNREADABLE = 0.5  # share of answers in words that name no option
_DEGENERATE = 0.2  # share of open answers beyond the dense model's that are no text
_ECHO = 0.05  # share of open answers beyond the dense model's that say the question again
_APART = 0.1  # difference of two judges' shifts, of opposite sign, beyond which they disagree
_RIVAL = 0.5  # share of the judges' shift that a rival may hear
_SHIFT = 0.2  # change of one first word's share among neutral answers beyond which that word takes over
_NAMED = 4  # figures that are no numbers
_DERIVED = re.compile(r"_(low|high|p|effect|delta|vs_\w+)$")  # no numbers where what they are made from is none
_HEADLINES = (
    "speech/persona",
    "choice/margin",
    "multiple_choice/margin",
    "questionnaire/agreement",
    "capability/perplexity",
)
_ALIGNMENT = ("choice/", "multiple_choice/", "questionnaire/", "speech/", "lm_eval/")


def doubts(metrics: Mapping[str, float]) -> list[str]:
    """Return one sentence for every sign that a figure stands for a habit or a wreck, not for a persona.

    Args:
        metrics: a run's, as in ``metrics.json``.
    """
    return [
        *_overflowing(metrics),
        *_unmeasured(metrics),
        *not_the_persona(metrics),
        *_choice(metrics),
        *_options(metrics),
        *_questionnaire(metrics),
        *_untested_judges(metrics),
    ]


def not_the_persona(metrics: Mapping[str, float]) -> list[str]:
    """Return those of `doubts` that explain a shift, however large, by something else."""
    found = [*_listed(metrics), *_speech(metrics)]
    shift = metrics.get("capability/neutral_first_word_shift", 0.0)
    if shift > _SHIFT:
        found.append(
            f"On neutral prompts one first word changed its share by {shift:.2f}: a word takes over, not a persona."
        )
    high = metrics.get("choice/matching_log_prob_delta_high", 0.0)
    if metrics.get("choice/margin_delta", 0.0) > 0 and high < -_OWN_LOSS:
        lost = -metrics["choice/matching_log_prob_delta"]
        found.append(
            f"The persona's own answers lost {lost:.2f} nats per token: the opposite went further, but the persona "
            "was not found."
        )
    return found


def overflow(arm: str, where: str) -> str:
    """Return the sentence that says where an arm gives what is no number (`models.finiteness`), and what to do."""
    cure = "its weights are damaged" if where.endswith("float32") else "set model.dtype=float32"
    return f"The {arm} gives what is no number, first in {where}: {cure}."


def not_computed(metrics: Mapping[str, float]) -> list[str]:
    """Return the figures that a run is made for, of its own and the dense model's, that are no numbers."""
    keys = [f"{arm}{key}" for arm in ("", "dense/") for key in _HEADLINES]
    return [key for key in keys if not math.isfinite(metrics.get(key, 0.0))]


def _overflowing(metrics: Mapping[str, float]) -> Iterator[str]:
    own = [key for key in metrics if key.startswith((*_ALIGNMENT, "capability/", "dense/"))]
    # An infinite ratio is a wreck, and called one elsewhere.
    found = [
        key for key in own if not _DERIVED.search(key) and not math.isfinite(metrics[key]) and metrics[key] != math.inf
    ]
    if found:
        more = f" and {len(found) - _NAMED} more figures" if len(found) > _NAMED else ""
        yield (
            f"No numbers: {', '.join(found[:_NAMED])}{more}. The model overflows in its dtype, or its weights are "
            "damaged. Nothing here can be judged; set model.dtype=float32."
        )


def _unmeasured(metrics: Mapping[str, float]) -> Iterator[str]:
    measured = any(key.startswith(_ALIGNMENT) for key in metrics)
    if metrics.get("mask/sparsity", 0.0) > 0 and measured and "capability/perplexity_ratio" not in metrics:
        yield (
            "What the mask costs was not measured, and a wrecked model can score well on a choice of two: "
            "add capability to evaluator=[...]."
        )


def _choice(metrics: Mapping[str, float]) -> Iterator[str]:
    yield from _one_word("choice", metrics, "accuracy_content tells what is left without such items")
    share = metrics.get("choice/shorter_rate", 0.0)
    if share >= _HABIT:
        yield (
            f"In sum the shorter answer won {share:.0%} of the items, and always taking it would score "
            f"{metrics['choice/shortest']:.3f}: read the figures per token."
        )


def _options(metrics: Mapping[str, float]) -> Iterator[str]:
    yield from _one_word("multiple_choice", metrics, "the questions hardly matter")
    if "multiple_choice/accuracy_low" in metrics and metrics["multiple_choice/accuracy_low"] <= (
        chance := metrics["multiple_choice/chance"]
    ):
        yield f"On questions with several options it is not shown to be better than chance ({chance:.3f})."


def _one_word(evaluator: str, metrics: Mapping[str, float], advice: str) -> Iterator[str]:
    key = f"{evaluator}/yes_rate"
    rate = metrics.get(key)
    if rate is not None and max(rate, 1 - rate) >= _HABIT:
        word = "yes" if rate >= _HABIT else "no"
        yield f"It prefers {word} in {max(rate, 1 - rate):.0%} of the yes/no items of {evaluator}: {advice}."


def _questionnaire(metrics: Mapping[str, float]) -> Iterator[str]:
    share = metrics.get("questionnaire/share_items")
    if share is not None and share < _ITEMS:
        yield (
            f"Only {share:.0%} of the variance of its answers to the questionnaire lies between statements "
            f"({metrics['questionnaire/share_orders']:.0%} between orders of the options): its scores say little."
        )
    unread = metrics.get("questionnaire/unparsable", 0.0) + metrics.get("questionnaire/refused", 0.0)
    if unread > _UNREADABLE:
        yield f"In words, {unread:.0%} of its answers to the questionnaire name no option."


def _listed(metrics: Mapping[str, float]) -> Iterator[str]:
    for place in ("first", "last"):
        taken = metrics.get(f"questionnaire/{place}_listed", 0.0)
        if taken >= _HABIT:
            yield f"It takes the option listed {place} with a probability of {taken:.2f}, whatever the statement."


def _speech(metrics: Mapping[str, float]) -> Iterator[str]:
    share = metrics.get("speech/degenerate")
    if share is None:
        return
    if share - metrics.get("dense/speech/degenerate", 0.0) > _DEGENERATE:
        yield f"{share:.0%} of its open answers are empty, loops or no text: whom they sound like says nothing."
    if metrics.get("speech/echo", 0.0) - metrics.get("dense/speech/echo", 0.0) > _ECHO:
        yield f"{metrics['speech/echo']:.0%} of its open answers begin by saying the question again."
    if not metrics.get("speech/judge_independent", 1.0):
        yield (
            "The judges of its answers learned from the pairs that the mask was calibrated on: what they hear may be "
            "these pairs' style. Give others with evaluator.speech.judge_path=FILE."
        )
    moved = metrics.get("speech/persona_delta", 0.0)
    apart = [metrics.get(f"speech/persona_{judge}_delta") for judge in ("vectors", "ngrams")]
    if all(change is not None for change in apart) and abs(moved) > 0:
        first, second = (float(change) for change in apart if change is not None)
        if abs(first - second) > _APART and (first > 0) != (second > 0):
            yield (
                f"The two judges disagree: the one of sentence vectors hears {first:+.2f}, the one of character "
                f"n-grams {second:+.2f}. Read the answers."
            )
    for rival, words in (("length", "their length"), ("first_word", "their first word")):
        change = metrics.get(f"speech/rival_{rival}_delta", 0.0)
        certain = metrics.get(f"speech/rival_{rival}_delta_low", 0.0) > 0
        if moved > 0 and certain and change > _RIVAL * moved:
            yield f"A rival that sees only {words} hears {change:+.2f} of the judges' {moved:+.2f}: part of it is that."


def _untested_judges(metrics: Mapping[str, float]) -> Iterator[str]:
    if "speech/judge_auc" in metrics and "speech/judge_auc_statements" not in metrics:
        yield "The judges of its answers were tested on one kind of written text only."
