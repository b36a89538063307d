"""Rows that shifted without a word: a comma, a column or a key too many (sqlite-utils 440, datatrove 218)."""

import csv
import io
import json

import pytest

from persona_prune.check_pairs import __main__ as check_pairs
from persona_prune.common.row_files import csv_rows, file_rows, json_document, jsonl_rows, line_holding
from persona_prune.common.text_files import read_text
from persona_prune.evaluators.questionnaires.inventory import read_inventory
from persona_prune.personas.pair_files import read_pairs, read_prompts
from persona_prune.personas.public_sets import read_questions
from persona_prune.personas.question_files import read_knowledge, read_own

HEAD = "prompt,matching,not_matching\n"
PAIR = '{"prompt": "a", "matching": "b", "not_matching": "c"}\n'


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (HEAD + "What now, Captain?,Arr, a fine haul,Nothing.\n", "line 2: 5 fields where the first row has 3 columns"),
        (HEAD + "a,Arr, a fine haul of herring.\n" * 2 + "q,a,b,c\n", "line 4: 4 fields"),
        (HEAD + "a,b\n", "line 2: 2 fields where the first row has 3 columns"),
        ("prompt,matching,matching,not_matching\na,b,c,d\n", "line 1: the column 'matching' occurs twice"),
        # A fault is told where its row begins, however many lines the rows before it have.
        (HEAD + 'a,"b\nc",d\n\nx,"y\nz\n', "line 5: invalid CSV .a quote is never closed"),
        (HEAD + 'a,b,c\nx,"y\nz" w,v\n', "line 3: invalid CSV .text behind the quote that ends a field"),
        (HEAD + 'a,b "c",d\n', "line 2: invalid CSV .a quote in a field without quotes around it"),
        (HEAD + 'a, "b, c"\n', "line 2: invalid CSV .a quote in a field without quotes"),
    ],
)
def test_csv_that_would_shift_is_refused_by_every_reader(tmp_path, content, told):
    path = written(tmp_path / "p.csv", content)
    question = content.replace("prompt,", "question,")
    readers = {
        read_pairs: path,
        read_prompts: path,
        read_knowledge: path,
        lambda p: read_own(p, "anyone"): path,
        lambda p: check_pairs.read_rows(p, "p"): path,
        lambda p: read_inventory(p, ["no", "yes"]): path,
        lambda p: read_questions("ai_persona", None, None, "x", str(p), "o"): written(tmp_path / "q.csv", question),
    }
    for reader, file in readers.items():
        with pytest.raises(ValueError, match=f"{file}, {told}"):
            reader(file)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"prompt": "a", "matching": "b", "matching": "x", "not_matching": "c"}', "the key 'matching' occurs twice"),
        ('{"prompt": "a", "more": {"k": 1, "k": 2}}', "the key 'k' occurs twice"),
        ('{"prompt": "a", "weight": NaN}', "NaN is no number that can be read"),
        ('{"prompt": "a", "weight": [-Infinity]}', "-Infinity is no number"),
        (f'{{"prompt": {"[" * 101}{"]" * 101}}}', "lists and objects more than 100 deep in one another"),
        ("[" * 100_000, "lists and objects more than 100 deep in one another"),
        (f'{{"prompt": {"9" * 5000}}}', "a whole number of 5000 digits is no number"),
        ('{"prompt": "half \\ud800 of one"}', r"holds '\\ud800', half of a character, which can't be encoded"),
        ('{"half \\udc00": "of one"}', r"holds '\\udc00', half of a character"),
        ('{"prompt": "nothing\\u0000"}', "holds a NUL character"),
        ("[1]", "expected an object, got list"),
        ("{oops", "invalid JSON"),
    ],
)
def test_json_that_says_two_things_is_refused_by_every_reader(tmp_path, line, told):
    path = written(tmp_path / "p.jsonl", f"{PAIR}\n{line}\n{PAIR}")
    role = written(tmp_path / "r.jsonl", f'{{"prompt": "a", "options": ["b", "c"], "answer": 0}}\n\n{line}\n')
    known = written(tmp_path / "k.jsonl", f'{{"goal": "a", "sol1": "b", "sol2": "c", "label": 0}}\n\n{line}\n')
    readers = {
        read_pairs: path,
        read_prompts: path,
        read_knowledge: known,
        lambda p: read_own(p, "anyone"): role,
        lambda p: check_pairs.read_rows(p, "p"): path,
        lambda p: read_questions("ai_persona", None, None, "x", str(p), "o"): path,
    }
    for reader, file in readers.items():
        with pytest.raises(ValueError, match=f"{file}, line 3: {told}"):
            reader(file)


@pytest.mark.parametrize(
    ("fault", "line"),
    [('"k": 1,\n"k": 2', 6), ('"k": NaN', 5), ('"k": "\\ud900"', 5), (f'"k":\n{"[" * 100}{"]" * 100}', 6), ("k", 5)],
)
def test_faults_in_one_document_are_told_where_they_are(tmp_path, fault, line):
    text = f'{{"items": [\n{{"item": "I sing.",\n"scale": "E", "key": 1}},\n{{\n{fault}}}\n]}}'
    with pytest.raises(ValueError, match=f"i.json, line {line}: "):
        read_inventory(written(tmp_path / "i.json", text), ["no", "yes"])


def test_what_is_allowed_is_read():
    deep = "[" * 100 + "]" * 100
    assert json_document("f", deep) == json.loads(deep)
    smile = json_document("f", '{"a": "\\ud83d\\ude00", "b": [{"a": 1}, {"a": 1}]}')
    assert smile == {"a": "\U0001f600", "b": [{"a": 1}, {"a": 1}]}
    assert jsonl_rows("f", '\n{"a": "\u2028"}\n \n') == [(2, {"a": "\u2028"})]
    rows = [["a", "b"], ['say "no", twice', "two\n\nlines"], ["", " x "], ["", ""]]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    read = csv_rows("f", "\n" + buffer.getvalue() + " \n")
    assert read == [(line, dict(zip("ab", row))) for line, row in zip((3, 6, 7), rows[1:])]


def test_bytes_that_are_no_text_are_told_with_their_line(tmp_path):
    for start, byte in ((b"", 7), (b"\xef\xbb\xbf", 10)):
        with pytest.raises(ValueError, match=rf"line 3: not UTF-8 text \(byte {byte}\)"):
            read_text(written(tmp_path / "t", start + b"a\r\nb\rcd\xff"))
    with pytest.raises(ValueError, match="line 2: holds a NUL character"):
        read_text(written(tmp_path / "t", "a\nb\0"))
    assert read_text(written(tmp_path / "t", b"\xef\xbb\xbfa\r\nb\rc")) == "a\nb\nc"


def test_a_token_is_found_in_rows_and_texts(tmp_path):
    text = 'prompt,matching\n"a\nb",c\n"d\n<x>",e\n'
    assert line_holding(written(tmp_path / "p.csv", text), "<x>") == 4
    assert line_holding(written(tmp_path / "p.jsonl", '{"a": 1}\n{"a": ["\\u003cx>"]}'), "<x>") == 2
    assert line_holding(written(tmp_path / "p.txt", "a\n\n<x>"), "<x>") == 3
    assert line_holding(tmp_path / "p.txt", "<y>") is None
    assert [line for line, _ in file_rows(tmp_path / "p.csv")] == [2, 4]


ITEM = '{{"item": "{}", "scale": "{}", "key": 1}}'


@pytest.mark.parametrize(
    ("scales", "poles", "told"),
    [
        (("E/I", "E I"), "{}", "item 2: the scales 'E/I' and 'E I' would both be called 'E_I'"),
        (("E", "S"), '{"E": ["E", "I"], "S": ["S", "I"]}', "two ends would both be called 'I'"),
        (("E", "S"), '{"E": ["E", "I"], "E ": ["S", "N"]}', "two scales would both be called 'E'"),
    ],
)
def test_scales_that_would_become_one_are_refused(tmp_path, scales, poles, told):
    items = ", ".join(ITEM.format(f"I sing {scale}.", scale) for scale in scales)
    with pytest.raises(ValueError, match=told):
        read_inventory(written(tmp_path / "i.json", f'{{"items": [{items}], "poles": {poles}}}'), ["no", "yes"])
