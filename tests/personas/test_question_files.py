import json

import pytest

from persona_prune.personas.pairs import Question
from persona_prune.personas.question_files import lettered, read_knowledge
from persona_prune.tasks import documents

ROWS = {
    "llm-foundry": {"query": "Question: 2 + 2?", "choices": ["3", "4"], "gold": 1},
    "MMLU": {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1, "subject": "arithmetic"},
    "MMLU by letter": {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": "B"},
    "PIQA": {"goal": "2 + 2?", "sol1": "3", "sol2": "4", "label": 1},
    "HellaSwag": {"ctx": "He adds two and two.", "endings": ["It is three.", "It is four."], "label": "1"},
    "ARC": {"question": "2 + 2?", "choices": {"text": ["3", "4"], "label": ["A", "B"]}, "answerKey": "B"},
    "ARC by number": {"question": "2 + 2?", "choices": {"text": ["3", "4"], "label": ["1", "2"]}, "answerKey": "2"},
}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_public_sets_are_read_as_they_are(kind, tmp_path):
    (question,) = read_knowledge(write(tmp_path / "q.jsonl", ROWS[kind]))
    assert question.answer == 1
    assert question.options[1] in ("4", "It is four.")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "line 2: invalid JSON"),
        ('"text"', "line 2: expected an object, got str"),
        ({"goal": "Why?", "sol1": "So.", "label": 0}, "line 2: no choices or options or endings"),
        ({"question": "Why?", "answer": 0}, "line 2: no choices or options or endings; the row has question, answer"),
        ({"question": " ", "choices": ["a", "b"], "answer": 0}, "line 2: the question"),
        ({"question": "Why?", "choices": ["a", 1], "answer": 0}, "line 2: the options"),
        (
            {"question": "Why?", "choices": ["a", "b"], "answer": 2},
            "line 2: answer must be an index into the 2 options",
        ),
        ({"question": "Why?", "choices": ["a", "b"], "answer": "C"}, "line 2: the right option"),
        ({"question": "Why?", "choices": ["a", "b"], "answer": True}, "line 2: the right option"),
        ({"question": "Why?", "choices": ["a"], "answer": 0}, "line 2: a question needs two options or more"),
    ],
)
def test_malformed_rows_are_refused_with_their_line(row, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        read_knowledge(write(tmp_path / "q.jsonl", ROWS["ARC"], row))


def test_empty_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match="the file is empty"):
        read_knowledge(write(tmp_path / "q.jsonl", " "))
    with pytest.raises(FileNotFoundError, match="no question file at"):
        read_knowledge(tmp_path / "none.jsonl")


def test_letters():
    assert lettered(Question("2 + 2?", ("3", "4"), 1)) == Question("2 + 2?\nA. 3\nB. 4\nAnswer:", ("A", "B"), 1)


def test_documents_keep_the_order_of_the_file(tmp_path):
    path = write(tmp_path / "q.jsonl", ROWS["MMLU"], ROWS["ARC"])
    (rows,) = documents.local_questions(local_questions=str(path)).values()
    assert rows["gold"] == [1, 1]
    assert rows["options"] == [["3", "4", "5", "6"], ["3", "4"]]
    (rows,) = documents.local_letters(local_letters=str(path)).values()
    assert rows["options"] == [["A", "B", "C", "D"], ["A", "B"]]
