"""Which answers are shown, and what is said of speech in words."""

import pytest

from persona_prune.evaluators.results import EvalResult
from persona_prune.report.doubts import doubts
from persona_prune.report.heard import answer_lines, median_answers, moved_traits, speech_verdict


def samples(*heard):
    return EvalResult(
        [
            {
                "id": i,
                "prompt": f"p{i}",
                "answer": f"a{i}",
                "dense_answer": f"d{i}",
                "answer_persona": value,
                "values": {},
            }
            for i, value in enumerate(heard)
        ]
    )


def test_those_in_the_middle_are_shown():
    result = samples(0.9, 0.1, 0.5, 0.7, 0.3)
    assert [one.prompt for one in median_answers(result, 3)] == ["p4", "p2", "p3"]
    assert [one.prompt for one in median_answers(result, 1)] == ["p2"]
    assert len(median_answers(result, 9)) == 5


def test_lines_show_dense_and_persona():
    (shown,) = median_answers(samples(0.5), 1)
    assert answer_lines([shown]) == ["  > p0", "    dense:   d0", "    persona: a0"]


METRICS = {
    "speech/judge_auc": 0.9,
    "speech/judge_auc_statements": 0.8,
    "speech/expressed": 0.7,
    "dense/speech/expressed": 0.2,
    "speech/expressed_delta": 0.5,
    "speech/expressed_delta_low": 0.3,
    "speech/expressed_delta_high": 0.7,
    "speech/expressed_p": 0.001,
    "speech/persona": 0.8,
    "dense/speech/persona": 0.4,
    "speech/coherent": 0.9,
    "dense/speech/coherent": 1.0,
    "speech/written_expressed": 0.75,
    "speech/written_persona": 0.8,
    "speech/degenerate": 0.1,
    "speech/echo": 0.0,
}


def test_the_verdict_says_whether_the_persona_is_heard():
    first, second = speech_verdict(METRICS)
    assert "heard in 70% of its answers, more than in the dense model's (20%" in first
    assert "written in persona, 75%" in first
    assert "90% are coherent (dense 100%)" in second
    no = METRICS | {"speech/expressed_delta_low": -0.1}
    assert "no more, as far as this shows, than" in speech_verdict(no)[0]


def test_judges_that_cannot_tell_give_no_verdict():
    (only,) = speech_verdict(METRICS | {"speech/judge_auc": 0.79})
    assert only.startswith("No verdict on what it says")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speech/echo": 0.2}, "begin by saying the question again"),
        ({"speech/degenerate": 0.5}, "loops or no text"),
        ({"speech/judge_independent": 0.0}, "the pairs that the mask was calibrated on"),
        (
            {
                "speech/persona_delta": 0.1,
                "speech/persona_vectors_delta": 0.3,
                "speech/persona_ngrams_delta": -0.1,
            },
            "The two judges disagree",
        ),
        (
            {
                "speech/persona_delta": 0.2,
                "speech/rival_length_delta": 0.15,
                "speech/rival_length_delta_low": 0.1,
            },
            "sees only their length",
        ),
    ],
)
def test_doubts_about_what_is_heard(changes, words):
    cheap = {"capability/perplexity_ratio": 1.0}
    assert not doubts(METRICS | cheap)
    (only,) = doubts(METRICS | cheap | changes)
    assert words in only


def test_the_axis_asked_for_stands_first_and_the_others_by_how_far_they_moved():
    def moved(key, delta):
        return {key: 0.6, f"dense/{key}": 0.5, f"{key}_delta": delta, f"{key}_delta_low": 0, f"{key}_delta_high": 1}

    metrics = {**moved("speech/trait_power", 0.1), **moved("speech/trait_a_b", -0.3), **moved("speech/persona", 0.05)}
    assert [trait.name for trait in moved_traits(metrics)] == ["the persona", "a / b", "power"]
