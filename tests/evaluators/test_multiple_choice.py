import json
from dataclasses import replace
from pathlib import Path

import pytest

from persona_prune.evaluators.multiple_choice import MultipleChoice, _sample
from persona_prune.personas.pairs import Question
from persona_prune.personas.question_files import read_own
from tests.reference import oracles

SETTINGS = {"format": None, "dataset": None, "revision": None, "name": None, "split": None, "limit": None}


def quiet(label, total):
    return lambda done: None


def test_verdicts_by_hand():
    question = Question("p", ("one", "three", "seven"), 1)
    # Summed: -5, -6, -5: the first and the third tie before the answer. Per token: -5, -2, -5.
    found = _sample(question, [-5.0, -6.0, -5.0], [1, 3, 1])["values"]
    assert found == {
        "accuracy": 0.0,
        "accuracy_norm": 1.0,
        "margin": pytest.approx(3.0),
        "yes_rate": None,
        "chance": pytest.approx(1 / 3),
        "shortest": 0.0,
        "longest": 0.5,  # "three" and "seven" are as long as each other
    }
    assert _sample(question, [-5.0, -5.0, -5.0], [1, 1, 1])["values"]["accuracy"] == pytest.approx(1 / 3)


def test_a_model_that_always_says_yes_is_named_as_one():
    totals = [[-1.0, -2.0], [-2.0, -1.0]]
    questions = [Question("p", (" Yes", " No"), 0), Question("q", (" No", " Yes"), 0)]
    found = [_sample(q, t, [1, 1])["values"] for q, t in zip(questions, totals, strict=True)]
    assert [value["yes_rate"] for value in found] == [1.0, 1.0]
    assert [value["accuracy"] for value in found] == [1.0, 0.0]


def questions_file(tmp_path: Path, *rows: object) -> str:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_options_are_scored_as_sequences_of_their_own(tiny, persona, tmp_path):
    row = {"prompt": "Who goes?", "options": ["A friend.", "Nobody at all, I think.", "Me."], "answer": 2}
    path = questions_file(tmp_path, row, {**row, "prompt": "Who stays?", "answer": 0})
    one, many = (
        MultipleChoice(path=path, batch_size=size, **SETTINGS).evaluate(tiny, persona, None, quiet) for size in (1, 32)
    )
    for sample, same in zip(one.samples, many.samples, strict=True):
        assert sample["log_prob"] == pytest.approx(same["log_prob"], abs=1e-3)
    from persona_prune.models.chat_text import chat_prompt, encode_answer
    from persona_prune.models.rows import Row

    prompt = chat_prompt(tiny.tokenizer, "Who goes?")
    for option, total in zip(row["options"], one.samples[0]["log_prob"], strict=True):
        context, answer = encode_answer(tiny.tokenizer, prompt, option)
        expected = oracles.answer_log_probs(tiny.model, Row(context, (answer,)).prompt, answer)
        assert total == pytest.approx(expected.sum().item(), abs=1e-3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{oops", "line 1: invalid JSON"),
        ([1], "line 1: expected an object, got list"),
        ({"options": ["a", "b"], "answer": 0}, "line 1: no 'prompt'"),
        ({"prompt": "p", "options": "ab", "answer": 0}, "line 1: a question needs two options or more, got 0"),
        ({"prompt": "p", "options": ["a", "a"], "answer": 0}, "line 1: 'options' must be different texts"),
        ({"prompt": "p", "options": ["a", "b"], "answer": "A"}, "line 1: 'answer' must be the index of an option"),
        ({"prompt": "p", "options": ["a", "b"], "answer": 2}, "line 1: answer must be an index into the 2 options"),
        ({"prompt": "p", "options": ["a", "b"], "answer": 0, "role": "x"}, "no questions of role y; there is x"),
    ],
)
def test_malformed_questions_are_refused_with_file_and_line(tmp_path, row, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_own(Path(questions_file(tmp_path, row)), "y")
    assert "\n" not in str(raised.value)


def test_flipping_takes_the_other_of_two_options_only(persona, tmp_path):
    flipped = replace(persona, flip=True)
    two = MultipleChoice(
        path=questions_file(tmp_path, {"prompt": "p", "options": ["a", "b"], "answer": 0}), batch_size=1, **SETTINGS
    )
    assert json.loads(json.dumps(two.identity(flipped))) == [1, [["p", ["a", "b"], 1]]]
    (tmp_path / "more").mkdir()
    three = {"prompt": "p", "options": ["a", "b", "c"], "answer": 0}
    more = MultipleChoice(path=questions_file(tmp_path / "more", three), batch_size=1, **SETTINGS)
    with pytest.raises(ValueError, match="no opposite to flip to"):
        more.check(flipped)


@pytest.mark.parametrize("key", ["dataset", "revision", "name"])
def test_a_public_set_without_its_format_is_not_ignored(key):
    with pytest.raises(ValueError, match=f"{key}: of a public set, but which"):
        MultipleChoice(**(SETTINGS | {key: "extraversion"}), path=None, batch_size=4)


def test_each_role_has_its_embedded_questions(persona):
    evaluator = MultipleChoice(path=None, batch_size=1, **SETTINGS)
    asked = {}
    for role in ("sherlock_holmes", "dr_watson"):
        _, asked[role] = evaluator.identity(replace(persona, name=role, pairs="holmes_watson"))
        assert len(asked[role]) == 20
        assert {sum(answer == n for *_, answer in asked[role]) for n in range(4)} == {5}
    with pytest.raises(ValueError, match="no embedded questions"):
        evaluator.check(persona)
