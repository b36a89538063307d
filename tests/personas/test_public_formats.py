"""The formats of public sets, as questions: each as its authors write it, and where a malformed file goes wrong."""

import json
from pathlib import Path

import pytest

from persona_prune.personas.pairs import Question
from tests.hub_support import LETTERS, PAIR, REACTION, YES_NO, read, write

SHARED = Path(__file__).parents[3] / "shared" / "data"
NOVEL = {
    "Some Book": {
        "Ada": [
            {
                "Multiple Choice Question": {
                    "Scenario": "Ada stays.",
                    "Question": "Why?",
                    "Options": ["A. Duty", "B.Fear", "C.Love", "D.A. Milne"],
                    "Correct Answer": "C",
                    "Reasons": ["C. Correct."],
                    "id": 1,
                }
            }
        ]
    },
    "Other Book": {
        "Bob": [
            {
                "Multiple Choice Question": {
                    "Scenario": "Bob goes.",
                    "Question": "Why?",
                    "Options": ["A. Rain", "B.Sun"],
                    "Correct Answer": "A",
                }
            }
        ]
    },
}
TRAIT = {
    "idx": 7,
    "personality": "Openness",
    "question": "A film?",
    "response_high1": "h1",
    "response_high2": "h2",
    "response_low1": "l1",
    "response_low2": "l2",
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_ai_persona_from_lines_or_an_array_found_by_name(tmp_path, suffix):
    path = write(tmp_path / f"power_seeking{suffix}", [PAIR, {**PAIR, "prompt": "Rule?", "extra": 1}])
    expected = (Question("Lead?", ("Gladly.", "No."), 0), Question("Rule?", ("Gladly.", "No."), 0))
    assert read("ai_persona", "power_seeking", tmp_path) == read("ai_persona", "any", path) == expected


def test_ai_persona_as_its_authors_publish_it(tmp_path):
    (tmp_path / "data" / "power-seeking").mkdir(parents=True)
    path = tmp_path / "data" / "power-seeking" / "train.csv"
    path.write_text('question,matching,not_matching\n"Lead,\nyou?",Gladly.,No.\nRule?,"""Yes"", I say.",No.\n')
    (path.parent / "test.csv").write_text("question,matching,not_matching\nOther?,a,b\n")
    expected = (Question("Lead,\nyou?", ("Gladly.", "No."), 0), Question("Rule?", ('"Yes", I say.', "No."), 0))
    assert read("ai_persona", "power_seeking", tmp_path) == read("ai_persona", "any", path) == expected
    path.write_text("question,matching\nLead?,Gladly.\n")
    with pytest.raises(ValueError, match=r"train.csv, line 2: no text in 'not_matching' \(columns: question, matching"):
        read("ai_persona", "power_seeking", tmp_path)


def test_an_array_in_a_jsonl_file_is_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps([YES_NO, YES_NO]))
    assert len(read("model_written_evals", "x", path)) == 2


def test_model_written_evals_take_keys_or_the_choices_they_stand_for(tmp_path):
    swapped = {**YES_NO, "answer_matching_behavior": " No", "answer_not_matching_behavior": " Yes"}
    inline = {**LETTERS, "question": "Stay, (A), or go, (B)?"}
    path = write(tmp_path / "x.jsonl", [YES_NO, swapped, LETTERS, inline])
    prompt = YES_NO["question"]
    assert read("model_written_evals", "x", path) == (
        Question(prompt, ("No", "Yes"), 1),
        Question(prompt, ("No", "Yes"), 0),
        Question("You may stay (A) or go.\nWhich?", ("Stay", "Go,\nand far", "Wait"), 1),
        Question("Stay, (A), or go, (B)?", ("(A)", "(B)"), 1),
    )


def test_machine_mindset_poles_are_joined_by_instruction_and_input(tmp_path, caplog):
    def alpaca(*rows: tuple[str, str, str]) -> list[dict[str, str]]:
        return [dict(zip(("instruction", "input", "output"), row)) for row in rows]

    e = alpaca(("Plan", " ", "e1"), ("Plan", " ", "e2"), ("Sum", "1, 2", "e3"), ("Alone", "", "e4"))
    i = alpaca(("Sum", "1, 2", "i3"), ("Plan", "", "i1"), ("Sum", "3", "i4"), ("Plan", " ", "i2"))
    write(tmp_path / "en" / "en_energy_extraversion.json", e)
    write(tmp_path / "en" / "en_energy_introversion.json", i)
    write(tmp_path / "zh" / "zh_energy_extraversion.json", e)
    joined = read("machine_mindset", "extraversion_introversion", tmp_path)
    assert joined == (
        Question("Plan", ("e1", "i1"), 0),
        Question("Plan", ("e2", "i2"), 0),
        Question("Sum\n1, 2", ("e3", "i3"), 0),
    )
    assert "left out 2 answers that only one pole gave" in caplog.text
    swapped = read("machine_mindset", "introversion_extraversion", tmp_path)
    assert {(q.prompt, q.options[::-1]) for q in swapped} == {(q.prompt, q.options) for q in joined}


def test_machine_mindset_pairs_are_read_before_poles(tmp_path):
    write(tmp_path / "thinking_feeling.jsonl", [PAIR])
    assert read("machine_mindset", "thinking_feeling", tmp_path) == (Question("Lead?", ("Gladly.", "No."), 0),)
    alone = write(tmp_path / "en_decision_thinking.json", [{"instruction": "a", "input": "", "output": "b"}])
    with pytest.raises(ValueError, match="no questions of 'thinking_feeling'"):
        read("machine_mindset", "thinking_feeling", alone)


def test_role_agent_bench_reads_a_script_and_filters_its_roles(tmp_path):
    write(tmp_path / "The Lake" / "reaction.json", REACTION)
    lee, kim = (Question(f"{role}, well?", ("One", "Two", "Three", "Four"), 3) for role in ("Lee", "Kim"))
    assert read("role_agent_bench", "The Lake", tmp_path) == (lee, kim)
    assert read("role_agent_bench", "The Lake/kim", tmp_path) == (kim,)
    with pytest.raises(ValueError, match=r"reaction.json: no questions of 'The Lake/Max'; it has Kim, Lee$"):
        read("role_agent_bench", "The Lake/Max", tmp_path)


def test_role_agent_bench_reads_questions_about_characters_of_novels(tmp_path):
    path = write(tmp_path / "motivation_choices.json", NOVEL)
    path.write_text(json.dumps(NOVEL, indent=0))
    ada = Question("Ada stays.\nWhy?", ("Duty", "Fear", "Love", "A. Milne"), 2)
    assert read("role_agent_bench", "Some Book/Ada", path) == read("role_agent_bench", "some book", path) == (ada,)
    with pytest.raises(ValueError, match="it has Other Book/Bob, Some Book/Ada"):
        read("role_agent_bench", "Third Book/Ada", path)


def test_trait_takes_rows_of_the_trait_from_json_or_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [TRAIT, {**TRAIT, "personality": "Neuroticism", "question": "Rain?"}]
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data" / "test-00000-of-00001.parquet")
    expected = (Question("A film?", ("h1", "l1", "l2"), 0), Question("A film?", ("h2", "l1", "l2"), 0))
    assert read("trait", "Openness", tmp_path) == expected
    assert read("trait", "openness", write(tmp_path / "all.jsonl", rows)) == expected
    del rows[1]["personality"]
    assert len(read("trait", "Openness", write(tmp_path / "Openness.jsonl", rows))) == 4
    with pytest.raises(ValueError, match="no questions of 'Kindness'; it has Neuroticism, Openness"):
        read("trait", "Kindness", tmp_path)


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("ai_persona", "", "the file is empty"),
        ("ai_persona", '{"prompt": 1}\n', r"x.jsonl, line 1: no text in 'prompt' \(columns: prompt\)"),
        ("ai_persona", json.dumps(PAIR) + "\n\n{oops\n", "x.jsonl, line 3: invalid JSON"),
        ("ai_persona", '[\n{"prompt": "a"},\noops]', "x.jsonl, line 3: invalid JSON"),
        ("ai_persona", f'[{json.dumps(PAIR)}, {{"prompt": "a"}}]', "x.jsonl, row 2: no text in 'matching'"),
        ("ai_persona", "[3]", "row 1: expected an object, got int"),
        ("ai_persona", '{"a":\n3}', "x.jsonl: no questions of 'x'"),
        ("machine_mindset", '{"instruction": "a", "input": ""}', "no questions of 'x'"),
        ("model_written_evals", '{"question": "a"}', "no text in 'answer_matching_behavior'"),
        ("role_agent_bench", json.dumps([{**REACTION[0], "gt_answer": "E"}]), "row 1: expected options and the letter"),
        ("role_agent_bench", json.dumps([{**REACTION[0], "multi_choices": "A. x"}]), "row 1: expected options and"),
        ("trait", '{"question": "a", "response_high1": "b"}', "no text in 'response_low1'"),
    ],
)
def test_malformed_files_are_refused_with_the_place(tmp_path, format, content, message):
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        read(format, "x", path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_questions_without_different_answers_are_left_out_and_repeated_prompts_kept(tmp_path, caplog):
    same = {**PAIR, "matching": "No. "}
    path = write(tmp_path / "x.jsonl", [PAIR, same, PAIR, {**PAIR, "prompt": " "}, {**PAIR, "matching": "Other"}])
    assert [q.options[0] for q in read("ai_persona", "x", path)] == ["Gladly.", "Gladly.", "Other"]
    assert f"left out 2 questions without different answers, the first at {path}, line 2" in caplog.text


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data is not on this machine")
@pytest.mark.parametrize(
    ("format", "path", "name", "rows"),
    [
        ("ai_persona", "ai_persona", "hallucination", 700),
        ("ai_persona", "ai_persona", "power_seeking", 639 - 2),  # two rows have the same answer twice
        ("ai_persona", "ai_persona", "wealth_seeking", 623 - 1),  # and one
        ("machine_mindset", "machine_mindset", "extraversion_introversion", 1182),
        ("machine_mindset", "machine_mindset", "perceiving_judging", 1362),
        ("machine_mindset", "machine_mindset", "thinking_feeling", 3071),
        ("model_written_evals", "model_written_evals", "desire-for-acquiring-power", 489),
        ("model_written_evals", "model_written_evals", "desire-for-acquiring-wealth", 486),
        ("model_written_evals", "model_written_evals", "extraversion", 528),
        ("model_written_evals", "model_written_evals", "risk-seeking", 488),
    ],
)
def test_public_files_are_read_whole(format, path, name, rows):
    assert len(read(format, name, SHARED / path)) == rows


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data is not on this machine")
def test_every_question_about_a_character_is_read_with_its_answer():
    path = SHARED / "roles" / "motivation_choices.json"
    asked = 0
    for script, roles in json.loads(path.read_text()).items():
        for role, items in roles.items():
            questions = read("role_agent_bench", f"{script}/{role}", path)
            raw = [item["Multiple Choice Question"] for item in items]
            asked += len(raw)
            assert len(questions) == len(raw)
            for question, item in zip(questions, raw):
                correct = next(text for text in item["Options"] if text.startswith(item["Correct Answer"]))
                assert correct[2:].strip() == question.options[question.answer]
                assert len(question.options) == 4
    assert asked == 254
