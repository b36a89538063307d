"""Judges of text: what they hear, from whom they learned, and what rivals hear that see hardly anything."""

import json

import numpy as np
import pytest

from persona_prune.evaluators import judges, topic
from persona_prune.evaluators.judge_pairs import judge_pairs
from persona_prune.evaluators.judges import JudgePairs, Panel
from persona_prune.personas.pairs import Pair
from persona_prune.personas.persona import Persona

LOUD = ["parties", "crowds", "dancing", "friends", "noise"]
QUIET = ["books", "silence", "walking", "tea", "gardens"]


def pairs(count: int, start: int = 0) -> tuple[Pair, ...]:
    return tuple(
        Pair(
            f"Question number {i}?",
            f"I like {LOUD[i % 5]} and {LOUD[i % 3]}.",
            f"I like {QUIET[i % 5]} and {QUIET[i % 3]}.",
        )
        for i in range(start, start + count)
    )


def panel_of(fit, test=None, statements=()) -> Panel:
    return Panel(JudgePairs(fit, fit if test is None else test, "here", True, statements))


@pytest.fixture(autouse=True)
def without_encoder(monkeypatch):
    """The judge of n-grams alone: vectors cost seconds."""
    monkeypatch.setattr(judges, "encoder_is_there", lambda: False)


def test_judges_that_can_tell_are_trusted_and_rivals_are_not():
    trust = panel_of(
        pairs(20), pairs(20, 100), statements=(("I love parties.", True), ("I love books.", False))
    ).trust()
    assert trust["judge_auc"] == 1.0
    assert trust["judge_accuracy"] == 1.0
    assert trust["judge_auc_statements"] == 1.0
    assert trust["judge_auc_first_word"] == 0.5  # all answers begin alike
    assert 0.2 < trust["judge_auc_shuffled"] < 0.8


def test_a_rival_of_length_finds_pairs_that_differ_in_length_only():
    same = tuple(Pair(f"What of number {i}?", "word " * (8 + i % 3), "word " * (3 + i % 3)) for i in range(20))
    trust = panel_of(same).trust()
    assert trust["judge_auc_length"] == 1.0
    assert trust["judge_auc_first_word"] == 0.5


def test_the_other_pole_is_one_minus_it():
    one, other = panel_of(pairs(20)), panel_of(tuple(pair.flipped() for pair in pairs(20)))
    texts, prompts = ["I like parties.", "I like tea.", "Hm."], ["a b c", "d e f", "g h i"]
    for name in ("ngrams", "length", "first_word"):
        both = one.probabilities(name, texts, prompts) + other.probabilities(name, texts, prompts)
        assert both == pytest.approx(np.ones(3), abs=1e-3)


def test_nobody_is_judged_by_a_judge_that_saw_the_written_answers_to_its_prompt(monkeypatch):
    known = pairs(20)
    seen = []

    def fitted(name, learned):
        def judge(texts):
            seen.append({pair.prompt for pair in learned})
            return np.full(len(texts), 0.5)

        return judge

    monkeypatch.setattr(judges, "fitted", fitted)
    panel = panel_of(known)
    for pair in known:
        seen.clear()
        panel.probabilities("ngrams", ["x"], [pair.prompt])
        assert pair.prompt not in seen[-1]
    seen.clear()
    panel.probabilities("ngrams", ["x"], ["a prompt that nobody wrote an answer to"])
    assert seen == [{pair.prompt for pair in known}]


def test_topic_by_hand(monkeypatch):
    vectors = {"sea": [1.0, 0.0], "land": [0.0, 1.0], "coast": [0.8, 0.6], "boat": [0.96, 0.28], "field": [0.28, 0.96]}
    monkeypatch.setattr(topic, "sentence_vectors", lambda texts: np.array([vectors[text] for text in texts]))
    others = ["sea", "land", "coast"]
    # boat is nearest to sea (0.96), then coast (0.936), then land (0.28).
    assert topic.topic_percentile(["boat", "boat", "boat"], ["sea", "coast", "land"], others).tolist() == [
        1.0,
        0.5,
        0.0,
    ]
    assert topic.topic_floor([Pair("sea", "boat", "field"), Pair("land", "field", "field")], others) == 0.0


def written(path, count, start=0):
    rows = [{"prompt": p.prompt, "matching": p.matching, "not_matching": p.not_matching} for p in pairs(count, start)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def found(persona: Persona, **given) -> JudgePairs:
    nothing = {
        "path": None,
        "prompts_path": None,
        "prompts_split": None,
        "calibration_path": None,
        "calibration_split": None,
    }
    return judge_pairs(persona, **(nothing | given))


def custom(**changes) -> Persona:
    plain = {
        "description": "",
        "opposite": None,
        "system_prompt": None,
        "pairs": None,
        "pole": "matching",
        "source": None,
    }
    return Persona(name="custom", flip=False, **(plain | changes))


def test_where_judges_learn_from(persona, tmp_path):
    own, asked = written(tmp_path / "own.jsonl", 20), written(tmp_path / "asked.jsonl", 80, 200)
    calibration = written(tmp_path / "calibration.jsonl", 200, 500)
    assert found(persona).source == "the judges' pairs of extrovert_introvert"
    assert len(found(persona).fit) == 96
    assert found(persona, path=own).source == "the pairs in own.jsonl"
    assert found(custom(), prompts_path=asked, calibration_path=calibration).source.startswith("the answers written to")
    third = found(custom(), prompts_path=asked, prompts_split="test")
    assert 0 < len(third.fit) < 80 == len(found(custom(), prompts_path=asked).fit)
    part = found(custom(), calibration_path=calibration, calibration_split="calibration")
    assert part.source == "the validation part of the calibration file"
    assert part.independent
    assert not {p.prompt for p in part.fit} & {p.prompt for p in part.test}
    assert not found(custom(), calibration_path=calibration).independent
    assert not found(custom(), path=calibration, calibration_path=calibration).independent
    with pytest.raises(ValueError, match=r"evaluator\.speech\.judge_path=FILE"):
        found(custom())
    few = written(tmp_path / "few.jsonl", 5)
    with pytest.raises(ValueError, match="5 pairs are too few"):
        found(custom(), path=few)


def test_judges_of_the_other_pole_learn_the_other_side(persona, tmp_path):
    own = written(tmp_path / "own.jsonl", 20)
    flipped = found(custom(), path=own).fit, found(Persona(**{**vars(custom()), "flip": True}), path=own).fit
    assert flipped[1] == tuple(pair.flipped() for pair in flipped[0])
    introvert = Persona(**{**vars(persona), "pole": "not_matching"})
    texts = dict(found(persona).statements)
    assert dict(found(introvert).statements) == {text: not agreed for text, agreed in texts.items()}
    assert texts["I make friends easily."]
