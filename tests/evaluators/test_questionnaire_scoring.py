"""Scores of answers known beforehand: the Big Five, sixteen types, what tells a sham, answers in words."""

import numpy as np
import pytest
from FFM import core as ffm
from ipipneo import IpipNeo

from persona_prune.evaluators.questionnaires.answers import parse_answer
from persona_prune.evaluators.questionnaires.big_five import ipip_neo_120, norms
from persona_prune.evaluators.questionnaires.inventory import Inventory, Item
from persona_prune.evaluators.questionnaires.reliability import (
    acquiescence,
    consistency,
    cronbach_alpha,
    keyed,
    reliability,
    retest,
    variance_shares,
)
from persona_prune.evaluators.questionnaires.scoring import item_samples, type_letters, whole_metrics
from persona_prune.personas.pairs import normalise
from tests.evaluators.questionnaire_support import AGREE, certain, evaluator


def sixteen_types():
    return evaluator(name="sixteen_types")._inventory()


def by_library(answers, sex, age):
    """What five-factor-e makes of raw answers, through its own front door."""
    rows = [{"id_question": i, "id_select": int(answer)} for i, answer in enumerate(answers, start=1)]
    result = IpipNeo(question=120).compute(sex=sex, age=age, answers={"answers": rows}, compare=True)
    found = {}
    for entry in result["person"]["result"]["personalities"]:
        for trait, scores in entry.items():
            found[trait] = scores[trait[0].upper()]
            for facet in scores["traits"]:
                found |= {name: value for name, value in facet.items() if name not in ("trait", "score")}
    return found, [row["id_select"] for row in result["person"]["result"]["compare"]["user_answers_reversed"]]


# The Big Five


def vector(kind):
    return {
        "all agree": [5] * 120,
        "all disagree": [1] * 120,
        "neutral": [3] * 120,
        "known": [1 + (7 * i + i // 30) % 5 for i in range(120)],
    }[kind]


@pytest.mark.parametrize("kind", ["all agree", "all disagree", "neutral", "known"])
@pytest.mark.parametrize(("sex", "age"), [("N", 30), ("F", 18), ("M", 65)])
def test_hand_scored_answers_match_five_factor_e_exactly(kind, sex, age):
    inventory, answers = ipip_neo_120(), vector(kind)
    expected, reversed_answers = by_library(answers, sex, age)
    samples = item_samples(inventory, certain(inventory, answers), None)
    scores = np.array([sample["score"] for sample in samples])
    assert scores.tolist() == reversed_answers
    found = norms(scores, sex, age)
    assert len(expected) == 35
    assert {name.removeprefix("percentile_"): v for name, v in found.items() if name[0] == "p"} == expected


def test_t_scores_by_hand():
    # Agreeing with everything, 18 items of 24 keyed 1: 18 x 5 + 6 x 1 = 96 of 120 on extraversion; anxiety, all four
    # keyed 1: 20. The norms of men between 21 and 40: means 78.90 and 11.44, standard deviations 15.21 and 3.76.
    inventory = ipip_neo_120()
    scores = keyed(np.full(120, 5.0), np.array([item.key for item in inventory.items]), 5)
    found = norms(scores, "M", 30)
    assert found["t_extraversion"] == pytest.approx(50 + 10 * (96 - 78.90) / 15.21)
    assert found["t_anxiety"] == pytest.approx(50 + 10 * (20 - 11.44) / 3.76)


def test_items_keys_and_facets_agree_between_the_two_packages():
    inventory = ipip_neo_120()
    assert [item.text for item in inventory.items] == ffm.Qs
    assert {scale: len(at) for scale, at in inventory.scales().items()} == dict.fromkeys(
        ["neuroticism", "extraversion", "openness", "agreeableness", "conscientiousness"], 24
    )
    keys = {item.text: (item.scale, item.key) for item in inventory.items}
    assert keys["I make friends easily."] == ("extraversion", 1)
    assert keys["I avoid crowds."] == ("extraversion", -1)
    assert keys["I am not easily annoyed."] == ("neuroticism", -1)
    assert keys["I use others for my own ends."] == ("agreeableness", -1)
    assert keys["I do not like poetry."] == ("openness", -1)
    assert keys["I act without thinking."] == ("conscientiousness", -1)
    # ffm scores on its own, with pandas: the same means.
    answers = vector("known")
    theirs = ffm.score(answers).iloc[0]
    samples = item_samples(inventory, certain(inventory, answers), None)
    for trait, mean in theirs.items():
        ours = [s["values"][f"score_{trait.lower()}"] for s in samples if s["scale"] == trait.lower()]
        assert np.mean(ours) == pytest.approx(mean)


# Sixteen types


def test_sixty_items_keyed_as_evenly_as_fifteen_allow():
    inventory = sixteen_types()
    assert len({normalise(item.text) for item in inventory.items}) == 60
    for axis, at in inventory.scales().items():
        assert len(at) == 15
        assert sorted(sum(inventory.items[i].key == key for i in at) for key in (1, -1)) == [7, 8], axis
    assert sum(item.key for item in inventory.items) == 0
    assert list(inventory.poles) == ["I-E", "N-S", "F-T", "P-J"]


def test_a_type_by_hand():
    inventory = sixteen_types()
    # For I, for N, for T, and for P except that five of its items are answered the other way.
    side = {"I-E": 1, "N-S": 1, "F-T": -1, "P-J": 1}
    toward = [item.key * side[item.scale] for item in inventory.items]
    for i in inventory.scales()["P-J"][:5]:
        toward[i] = -toward[i]
    probabilities = certain(inventory, [5 if t > 0 else 1 for t in toward])
    whole = whole_metrics(inventory, probabilities)
    assert type_letters(inventory, whole) == "INTP"
    assert [whole[f"type_{axis}"] for axis in side] == [1.0, 1.0, 0.0, 1.0]
    assert (whole["pole_I"], whole["pole_E"], whole["pole_F"], whole["pole_T"]) == (100, 0, 0, 100)
    assert (whole["pole_P"], whole["pole_J"]) == pytest.approx((200 / 3, 100 / 3))
    samples = item_samples(inventory, probabilities, None)
    margins = [s["values"]["margin_P-J"] for s in samples if s["scale"] == "P-J"]
    assert np.mean(margins) == pytest.approx(whole["pole_P"] - whole["pole_J"])
    tie = whole_metrics(inventory, certain(inventory, [3] * 60))
    assert type_letters(inventory, tie) == "????"


# Trust


def test_alpha_by_hand():
    # Three respondents, two items: item variances 2/3 and 14/9 (sum 20/9), totals 2, 5, 7 with variance 38/9.
    scores = np.array([[1.0, 1.0], [2.0, 3.0], [3.0, 4.0]])
    assert cronbach_alpha(scores) == pytest.approx(2 * (1 - 20 / 38))
    assert cronbach_alpha(np.array([[1.0, 1.0], [2.0, 2.0]])) == pytest.approx(1.0)  # items say the same
    assert cronbach_alpha(np.array([[1.0, 5.0], [5.0, 1.0]])) == -1.0  # items contradict each other
    assert cronbach_alpha(np.full((6, 4), 3.0)) == 0.0  # nothing varies


def test_consistency_and_acquiescence_by_hand():
    keys = np.array([1, 1, -1])
    # Items keyed 1: mean 4; the other, turned round: 6 - 3 = 3. One point of four apart.
    assert consistency(np.array([[5.0, 3.0, 3.0]]), keys, 5) == pytest.approx(0.75)
    # Half of (4 + 3): the two items keyed 1 weigh no more than the single one keyed -1.
    assert acquiescence(np.array([[5.0, 3.0, 3.0]]), keys, {"a": [0, 1, 2]}).tolist() == [3.5]


@pytest.mark.parametrize(("answer", "extreme"), [(5, 5.0), (1, 1.0)])
@pytest.mark.parametrize("inventory", [ipip_neo_120(), sixteen_types()], ids=["ipip_neo_120", "sixteen_types"])
def test_a_constant_answerer_is_unmasked(inventory, answer, extreme):
    whole = whole_metrics(inventory, certain(inventory, [answer] * len(inventory.items)))
    assert whole["acquiescence"] == extreme
    assert whole["consistency"] == 0.0
    for scale in inventory.scales():
        assert (whole[f"alpha_{scale}"], whole[f"consistency_{scale}"], whole[f"retest_{scale}"]) == (0, 0, 0)


def test_agreeing_more_or_less_with_everything_does_not_pass_for_reliability():
    inventory = ipip_neo_120()
    keys = np.array([item.key for item in inventory.items])
    levels = np.array([3.2, 3.6, 4.0, 4.4, 4.8, 5.0]).reshape(3, 2, 1)
    whole = reliability(np.broadcast_to(levels, (3, 2, 120)), keys, 5, inventory.scales())
    # 18 of 24 items keyed 1: plain alpha is 24/23 (1 - 24/12^2), a fine value for a test that measures nothing.
    assert whole["alpha_extraversion"] == pytest.approx(24 / 23 * (1 - 24 / 144))
    assert whole["alpha_centred_extraversion"] == 0.0
    assert whole["acquiescence"] == pytest.approx(levels.mean())
    assert whole["retest"] == 0.0
    assert whole["share_items"] == pytest.approx(0.0)


def test_taking_whatever_is_listed_first_is_unmasked():
    inventory = ipip_neo_120()
    probabilities = np.zeros((3, 2, 120, 5))
    probabilities[:, 0, :, 0] = probabilities[:, 1, :, 4] = 1.0
    values = [sample["values"] for sample in item_samples(inventory, probabilities, None)]
    assert {(v["first_listed"], v["last_listed"], v["order_shift"], v["entropy"]) for v in values} == {(1, 0, 4, 0)}
    whole = whole_metrics(inventory, probabilities)
    # The traits come out in the middle, and acquiescence too: it is these that tell.
    assert whole["share_orders"] == pytest.approx(1.0)
    assert (whole["consistency"], whole["alpha_centred_extraversion"], whole["retest_orders"]) == (0, 0, 0)


def test_a_person_who_knows_what_they_are_passes():
    inventory = ipip_neo_120()
    keys = np.array([item.key for item in inventory.items])
    trait = np.array([{"extraversion": 2.0, "neuroticism": -1.5}.get(item.scale, 0.5) for item in inventory.items])
    mood = np.linspace(0.6, 1.4, 6).reshape(3, 2, 1)  # how strongly it comes out this time
    noise = np.random.default_rng(0).normal(0, 0.05, (3, 2, 120))
    whole = reliability(np.clip(3 + keys * trait * mood + noise, 1, 5), keys, 5, inventory.scales())
    assert whole["alpha_extraversion"] > 0.9
    assert whole["alpha_centred_extraversion"] > 0.9
    assert whole["consistency"] > 0.95
    assert whole["retest"] > 0.95
    assert whole["acquiescence"] == pytest.approx(3, abs=0.05)
    assert whole["share_items"] > 0.8


def test_retest_is_the_mean_over_pairs_of_unkeyed_answers():
    answers = np.random.default_rng(1).uniform(1, 5, (3, 20))
    pairs = [np.corrcoef(answers[a], answers[b])[0, 1] for a, b in ((0, 1), (0, 2), (1, 2))]
    assert retest(answers) == pytest.approx(np.mean(pairs))


def test_shares_of_variance_add_up_where_effects_do():
    rng = np.random.default_rng(2)
    additive = rng.normal(size=(3, 1, 1)) + rng.normal(size=(1, 2, 1)) + rng.normal(size=(1, 1, 9))
    assert sum(variance_shares(additive).values()) == pytest.approx(1.0)
    assert variance_shares(additive * [[[1.0]], [[1.0]], [[-1.0]]])["share_items"] < 1


# Answers in words


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Agree", 3),
        ("  - strongly agree.", 4),
        ("I'd say: Strongly Disagree!", 0),
        ("**Neither agree nor disagree**", 2),
        ("Agree. I really do agree", 3),
        ("I don't agree", "unparsable"),
        ("I don\u2019t strongly agree", "unparsable"),
        ("Agree, or perhaps disagree", "unparsable"),
        ("Strongly disagree\n- Disagree", "unparsable"),
        ("Disagreeable", "unparsable"),
        ("It depends.", "unparsable"),
        ("", "unparsable"),
        ("As an AI language model, I don't", "refused"),
        ("I'm sorry, but I can't", "refused"),
        ("I'm an AI, so: neither agree nor disagree", "refused"),
    ],
)
def test_answers_are_parsed_or_counted_never_guessed(text, meant):
    assert parse_answer(text, AGREE) == meant


def test_yes_and_no_and_options_that_sound_like_refusals():
    assert parse_answer("No, I don't.", ("No", "Yes")) == 0
    assert parse_answer("I can't stand it", ("I can't stand it", "I love it")) == 0


def test_scores_of_answers_in_words_leave_the_missing_ones_out():
    inventory = Inventory((Item("I sing.", "E", -1, AGREE),), {})
    probabilities = certain(inventory, [5])
    generated = [[("Agree", 3), ("Strongly agree", 4), ("Hm", "unparsable"), ("I'm sorry", "refused")]]
    values = item_samples(inventory, probabilities, generated)[0]["values"]
    # Agree is worth 4, strongly agree 5; keyed -1 they score 2 and 1.
    assert values["generated_score_E"] == 1.5
    assert (values["refused"], values["unparsable"], values["generated_likeliest"]) == (0.25, 0.25, 0.5)
    silent = item_samples(inventory, probabilities, [[("Hm", "unparsable")]])[0]["values"]
    assert (silent["generated_score_E"], silent["generated_likeliest"], silent["unparsable"]) == (None, None, 1.0)
