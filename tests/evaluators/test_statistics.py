import math

import numpy as np
import pytest

from persona_prune.evaluators.results import EvalResult
from persona_prune.evaluators.statistics import (
    _questions,
    average,
    bootstrap_interval,
    compare,
    effect_size,
    holm,
    mcnemar,
    sign_flip,
    summarise,
)


def result(values, metric="m"):
    return EvalResult([{"id": i, "values": {metric: v}} for i, v in enumerate(values)])


def test_mcnemar_by_hand():
    # 6 discordant pairs, 5 better: two-sided exact p = 2 * (C(6,0) + C(6,1)) / 2^6.
    assert mcnemar(np.array([1, 1, 1, 1, 1, -1, 0, 0.0])) == pytest.approx(14 / 64)
    assert mcnemar(np.zeros(4)) == 1.0


def test_sign_flip_by_hand():
    # All 2^5 sign patterns are enumerated; only all-plus and all-minus are as extreme.
    assert sign_flip(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 32)
    assert sign_flip(np.zeros(5)) == 1.0
    assert math.isnan(sign_flip(np.array([1.0, math.nan, 3.0, 4.0, 5.0])))


def test_interval_covers_the_mean_of_a_known_distribution():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        low, high = bootstrap_interval(rng.normal(0.0, 1.0, 60))
        covered += low <= 0.0 <= high
    assert 85 <= covered <= 100
    assert bootstrap_interval(np.full(7, 2.5)) == (2.5, 2.5)


def test_means_skip_items_the_metric_does_not_apply_to():
    figures = summarise(result([1.0, None, 0.0, 1.0]))
    assert figures["m"] == pytest.approx(2 / 3)
    assert figures["m_low"] <= figures["m"] <= figures["m_high"]


def test_compare_pairs_items_by_id():
    ours, theirs = result([1.0, 1.0, 0.0, None]), result([0.0, 1.0, 0.0, 1.0])
    found = compare(ours, theirs)
    assert found["m"].delta == pytest.approx(1 / 3)
    assert found["m"].p == 1.0
    assert compare(ours, EvalResult([])) == {}


def test_items_that_ask_one_question_are_resampled_and_flipped_together():
    generator = np.random.default_rng(3)
    margins = generator.normal(0.2, 1, 30)
    once = EvalResult([{"id": i, "prompt": f"Q{i}?", "values": {"margin": m}} for i, m in enumerate(margins)])
    thrice = EvalResult(
        [
            {
                "id": 3 * i + k,
                "prompt": f"q{i}? ",
                "options": ["Never.", f"{k}"],
                "values": {"margin": m, "accuracy": float(m > 0)},
            }
            for i, m in enumerate(margins)
            for k in range(3)
        ]
    )
    one, three = summarise(once), summarise(thrice)
    assert three["margin"] == pytest.approx(one["margin"])
    assert (three["margin_low"], three["margin_high"]) == pytest.approx((one["margin_low"], one["margin_high"]))

    def dense(result: EvalResult) -> EvalResult:
        return EvalResult([{**s, "values": dict.fromkeys(s["values"], 0.0)} for s in result.samples])

    alone, together = compare(once, dense(once))["margin"], compare(thrice, dense(thrice))
    assert together["margin"].p == alone.p
    assert (together["margin"].low, together["margin"].high) == pytest.approx((alone.low, alone.high))
    # McNemar's test would take all 90 for independent.
    wins = int((margins > 0).sum())
    assert mcnemar(np.ones(3 * wins)) < together["accuracy"].p <= 3 * mcnemar(np.ones(wins)) + 0.001


@pytest.mark.parametrize("prompt", ["", "Which is more like you?"])
def test_a_prompt_that_stands_before_every_item_does_not_make_one_question_of_them(prompt):
    margins = np.random.default_rng(3).normal(0.2, 1, 30)
    plain = EvalResult([{"id": i, "values": {"margin": m}} for i, m in enumerate(margins)])
    asked = EvalResult(
        [{**s, "prompt": prompt, "matching": f"a{s['id']}", "not_matching": f"b{s['id']}"} for s in plain.samples]
    )
    assert summarise(asked) == summarise(plain)


def test_statements_that_are_answered_on_one_scale_are_items_of_their_own():
    scores = np.random.default_rng(3).normal(0.2, 1, 30)
    plain = EvalResult([{"id": i, "values": {"score": s}} for i, s in enumerate(scores)])
    rated = EvalResult([{**s, "item": f"I {s['id']}.", "options": ["Agree", "Disagree"]} for s in plain.samples])
    assert summarise(rated) == summarise(plain)
    zero = EvalResult([{**s, "values": {"score": 0.0}} for s in rated.samples])
    assert compare(rated, zero)["score"].p < 1


def test_options_join_questions_whatever_the_order():
    options = [("a", "b"), ("c", "d"), ("b", "c"), ("e", "f"), ("f", "g")]
    samples = [{"id": i, "prompt": "Q?", "options": [*two]} for i, two in enumerate(options)]
    assert _questions(samples, range(5)).tolist() == [0, 0, 0, 1, 1]
    assert _questions(samples, [0, 1, 3]).tolist() == [0, 1, 2]
    samples[4]["prompt"] = "Another?"
    assert _questions(samples, range(5)).tolist() == [0, 0, 0, 1, 2]


def test_questions_of_several_sizes_weigh_as_many_items():
    values, questions = np.array([1.0, 2.0, 3.0, 10.0, 11.0]), np.array([0, 0, 0, 1, 1])
    low, high = bootstrap_interval(values, questions)
    assert (low, high) == (2.0, 10.5)  # both times the first question, or the second


def test_effect_size_by_hand():
    # Differences 1, 2, 3: mean 2, sample standard deviation 1.
    assert effect_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0)
    assert effect_size(np.zeros(3)) == 0.0
    assert effect_size(np.array([-1.0, -1.0])) == -np.inf


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.6: times 4, 3, 2, 1, never below the one before.
    found = holm({"a": 0.03, "b": 0.01, "c": 0.6, "d": 0.02})
    assert found == pytest.approx({"b": 0.04, "d": 0.06, "a": 0.06, "c": 0.6})
    assert holm({}) == {}


def test_a_seed_that_has_no_value_for_an_item_does_not_count():
    mean = average([result([None, None]), result([1.0, None]), result([0.0, None])])
    assert [sample["values"]["m"] for sample in mean.samples] == [0.5, None]


def test_seeds_are_averaged_item_by_item():
    mean = average([result([1.0, None, 0.0]), result([0.0, None, 0.0])])
    assert [sample["values"]["m"] for sample in mean.samples] == [0.5, None, 0.0]
