from dataclasses import replace

import pytest

from persona_prune.evaluators.choice import Choice, _sample
from persona_prune.evaluators.results import EvalResult
from persona_prune.personas.pairs import Pair
from persona_prune.personas.persona import Mix
from tests.reference import oracles


def quiet(label, total):
    return lambda done: None


def values(matching, other, totals, tokens):
    return _sample(0, Pair("p", matching, other), totals, tokens)["values"]


def test_verdicts_by_hand():
    # Summed: -6 < -5, so the shorter one wins; per token: -1 > -2.5, so the longer one does.
    found = values("A long answer.", "Short.", (-6.0, -5.0), (6, 2))
    assert found == {
        "accuracy": 0.0,
        "accuracy_norm": 1.0,
        "accuracy_content": 1.0,
        "margin": pytest.approx(1.5),
        "matching_log_prob": -1.0,
        "yes_rate": None,
        "shorter_rate": 1.0,
        "shortest": 0.0,
        "always_yes": None,
    }


def test_yes_and_no():
    found = values("No, thanks.", '"Yes" it is', (-1.0, -2.0), (1, 1))
    assert (found["accuracy_content"], found["yes_rate"]) == (None, 0.0)
    assert values("Yes.", "No.", (-1.0, -2.0), (1, 1))["yes_rate"] == 1.0
    # One yes is not a yes/no question, and a word that merely starts so is content.
    assert values("Yes.", "Never.", (-1.0, -2.0), (1, 1))["yes_rate"] is None
    assert values("Nothing.", "Yesterday.", (-1.0, -2.0), (1, 1))["accuracy_content"] == 1.0


def test_what_shortcuts_score():
    assert values("Yes.", "No, never.", (-1.0, -2.0), (1, 1))["shortest"] == 1.0
    assert values("abc", "xyz", (-1.0, -2.0), (1, 1))["shortest"] == 0.5
    assert values("abc", "xyz", (-1.0, -2.0), (1, 1))["shorter_rate"] is None
    assert values("Yes.", "No, never.", (-2.0, -1.0), (1, 1))["shorter_rate"] == 0.0
    assert values("Yes.", "No, never.", (-2.0, -1.0), (1, 1))["always_yes"] == 1.0
    assert values("No, never.", "Yes.", (-2.0, -1.0), (1, 1))["always_yes"] == 0.0


def test_items_that_move_away_from_the_persona_are_counted(tiny, persona, pair_file):
    evaluator = Choice(path=str(pair_file), split=None, limit=None, batch_size=4)
    dense = evaluator.evaluate(tiny, persona, None, quiet)
    assert "moved_away" not in dense.means()
    higher = [{**s, "values": {**s["values"], "margin": s["values"]["margin"] + (s["id"] < 2)}} for s in dense.samples]
    found = evaluator.evaluate(tiny, persona, EvalResult(higher), quiet)
    assert [sample["values"]["moved_away"] for sample in found.samples] == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_ties_count_half_whichever_side_comes_first():
    found = values("a", "b", (-2.0, -2.0), (1, 1))
    assert (found["accuracy"], found["accuracy_norm"], found["margin"]) == (0.5, 0.5, 0.0)


def test_lm_eval_gives_the_log_probabilities_of_single_sequences(tiny, persona, pair_file, pairs):
    evaluator = Choice(path=str(pair_file), split=None, limit=None, batch_size=3)
    result = evaluator.evaluate(tiny, persona, None, quiet)
    assert [sample["prompt"] for sample in result.samples] == [pair.prompt for pair in pairs]
    from persona_prune.models.rows import pair_rows

    for row, sample in zip(pair_rows(tiny.tokenizer, pairs, 512), result.samples, strict=True):
        for side in (0, 1):
            expected = oracles.answer_log_probs(tiny.model, row.prompt, row.branches[side])
            assert sample["log_prob"][side] == pytest.approx(expected.sum().item(), abs=1e-3)
            assert sample["tokens"][side] == len(expected)


def test_flipping_mirrors_every_figure(tiny, persona, pair_file):
    evaluator = Choice(path=str(pair_file), split=None, limit=None, batch_size=4)
    one = evaluator.evaluate(tiny, persona, None, quiet).means()
    other = evaluator.evaluate(tiny, replace(persona, flip=True), None, quiet).means()
    assert other["accuracy"] == pytest.approx(1 - one["accuracy"])
    assert other["margin"] == pytest.approx(-one["margin"], abs=1e-5)


def test_the_parts_of_a_flipped_mix_go_by_the_poles_they_become(persona):
    thinker = replace(persona, name="thinker", opposite="feeler", pairs="feeling_thinking", pole="not_matching")
    about = {"description": "", "opposite": None, "system_prompt": None, "source": None, "pooled": False}
    weights = {"extrovert": 0.7, "thinker": 0.3}
    evaluator = Choice(path=None, split=None, limit=2, batch_size=4)

    def named(flip):
        mix = Mix(name="mix", weights=weights, personas=[persona, thinker], flip=flip, **about)
        return evaluator._pairs(mix)

    assert [name for name, _ in named(False)] == ["extrovert", "extrovert", "thinker", "thinker"]
    assert [name for name, _ in named(True)] == ["introvert", "introvert", "feeler", "feeler"]
    assert [pair.flipped() for _, pair in named(False)] == [pair for _, pair in named(True)]
