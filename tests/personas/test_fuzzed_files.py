"""2,000 files, each broken a little: every one is read as it is written, or refused at the line of the faulty row.

The oracle is `tests.reference.strict_rows`, which takes one character at a time and guesses nothing.
"""

import csv
import io
import json
import random
import re
from collections import Counter

import pytest

from persona_prune.common.row_files import file_rows
from persona_prune.evaluators.questionnaires.inventory import read_inventory
from persona_prune.personas.pair_files import read_pairs, read_prompts
from persona_prune.personas.pairs import Pair
from persona_prune.personas.public_sets import read_questions
from persona_prune.personas.question_files import read_knowledge, read_own
from tests.reference import strict_rows
from tests.reference.strict_rows import RefusedError

FILES = 2000
TEXTS = (
    "What now, Captain?",
    'Say "no", twice.',
    "Two\nlines",
    "Ünïcödé, 你好, \U0001f600",
    "C++",
    "plain",
    "",
    "trailing\\",
    "{brace}",
    "semi;colon",
)


def original(rng, kind, suffix):
    """Return the rows of a good file as bytes."""

    def text():
        return rng.choice(TEXTS) + str(rng.randrange(100))

    rows = []
    for _ in range(rng.randrange(1, 7)):
        if kind == "pairs":
            row = {"prompt": text(), "matching": text(), "not_matching": text()}
        elif kind == "prompts":
            row = {"prompt": text(), "topic": text()}
        elif suffix == "csv":  # as a questionnaire
            row = {"item": text(), "scale": rng.choice("ES"), "key": rng.choice(["1", "-1"])}
        else:
            row = {"prompt": text(), "options": [text() + "a", text() + "b"], "answer": rng.randrange(2)}
        rows.append(row)
    if suffix == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue().encode()
    return "".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n" for row in rows).encode()


PIECES = {
    "quote": [b'"', b'""'],
    "comma": [b",", b",,", b", "],
    "line": [b"\n", b"\r\n", b"\r", b"\n\n", b" \n"],
    "byte": [b"\xff", b"\xe4\xbd", b"\0", b"\xef\xbb\xbf", b"\x80", b"a"],
    "json": [b'"prompt": "twice", ', b"\\ud800", b"\\u0000", b"NaN", b"[" * 120, b"{", b"}", b"\\", b":"],
}


def mutated(rng, content):
    """Return the content with one or two faults, some of which are none."""
    for _ in range(rng.randrange(1, 3)):
        lines = content.split(b"\n")
        at, number = rng.randrange(len(content) + 1), rng.randrange(len(lines))
        kind = rng.choice(["drop", "add", "add", "add", "cut", "column", "same", "crlf", "bom", "blank", "header"])
        if kind == "drop":
            places = [i for i, byte in enumerate(content) if byte in b'",\n{}:\\'] or [0]
            at = rng.choice(places)
            content = content[:at] + content[at + 1 :]
        elif kind == "add":
            content = content[:at] + rng.choice(PIECES[rng.choice(list(PIECES))]) + content[at:]
        elif kind == "cut":
            content = content[:at]
        elif kind == "crlf":
            content = content.replace(b"\n", rng.choice([b"\r\n", b"\r"]))
        elif kind == "bom":
            content = b"\xef\xbb\xbf" + content
        else:
            if kind == "column":
                lines[number] += rng.choice([b",more", b",", b', "x"'])
            elif kind == "same":  # a key or a column twice
                lines[number] = re.sub(rb'^\{("\w+": "[^"]*")', rb"{\1, \1", lines[number])
            elif kind == "blank":
                lines.insert(number, rng.choice([b"", b"  ", b"\t"]))
            else:
                lines[0] += rng.choice([b",prompt", b",extra", b",matching"])
            content = b"\n".join(lines)
    return content


def expected(content, suffix):
    """Return the rows that the strict reader finds, or the line at which it refuses; 0 for an empty file."""
    try:
        text = strict_rows.text_of(content)
        if not text.strip():
            return 0
        return strict_rows.csv_rows(text) if suffix == "csv" else strict_rows.jsonl_rows(text)
    except RefusedError as refused:
        return refused.line


def line_of(error, path):
    """Return the line that a message names, 0 if none; it must be one line and name the file."""
    message = str(error)
    assert "\n" not in message
    assert message.startswith(str(path))
    found = re.match(rf"{re.escape(str(path))}, line (\d+): ", message)
    return int(found[1]) if found else 0


def outcome(reader, path):
    """Return what a reader makes of a file, or the line at which it refuses; anything else is a crash."""
    try:
        return reader(path)
    except ValueError as error:
        return line_of(error, path)


def pairs_of(rows):
    """Return what `read_pairs` must make of rows."""
    pairs = []
    for line, row in rows:
        texts = [row.get("prompt", row.get("question")), row.get("matching"), row.get("not_matching")]
        if not all(isinstance(text, str) for text in texts):
            return line
        bare = [text.strip() for text in texts]
        if all(bare) and bare[1] != bare[2]:
            pairs.append(Pair(*texts))
    return tuple(pairs) or 0


def prompts_of(rows):
    prompts = [(line, row.get("prompt", row.get("question"))) for line, row in rows]
    bad = [line for line, prompt in prompts if not isinstance(prompt, str) or not prompt.strip()]
    return bad[0] if bad else tuple(prompt for _, prompt in prompts)


def questions_of(rows):
    questions = []
    for line, row in rows:
        prompt, options, answer = row.get("prompt", row.get("question")), row.get("options"), row.get("answer")
        fine = isinstance(prompt, str) and prompt.strip() and type(answer) is int and isinstance(options, list)
        fine = fine and all(isinstance(text, str) and text.strip() for text in options)
        if not (fine and len(set(options)) == len(options) >= 2 and 0 <= answer < len(options)):
            return line
        questions.append((prompt, tuple(options), answer))
    return questions


def items_of(rows):
    items = []
    for line, row in rows:
        item, scale, key = row.get("item", ""), row.get("scale", ""), row.get("key", "").strip()
        if not item.strip() or not scale.strip() or key not in ("1", "+1", "-1"):
            return line
        items.append((item.strip(), scale.strip(), int(key)))
    return items


def read_questions_plainly(path):
    return [(question.prompt, question.options, question.answer) for question in read_own(path, "anyone")]


def is_document(content):
    """Return whether a file is one JSON array or object over several lines, as some public sets are."""
    text = content.decode("utf-8-sig", "replace").lstrip()
    try:
        return text.startswith("[") or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def read_public_pairs(path):
    questions = read_questions("ai_persona", None, None, "own", str(path), "path")
    return tuple(pair for question in questions for pair in question.pairs())


def read_items_plainly(path):
    return [(item.text, item.scale, item.key) for item in read_inventory(path, ["no", "yes"]).items]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("kind", ["pairs", "prompts", "questions"])
def test_fuzzed_files_are_read_right_or_refused_at_the_right_line(kind, suffix, tmp_path):
    rng = random.Random(f"{kind} {suffix}")
    seen = Counter()
    for number in range(-(-FILES // 6)):
        content = mutated(rng, original(rng, kind, suffix))
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(content)
        rows = expected(content, suffix)
        assert outcome(file_rows, path) == rows, content
        if kind == "questions":
            reader, wanted = (
                (read_items_plainly, items_of) if suffix == "csv" else (read_questions_plainly, questions_of)
            )
            with_scales = [row.get("scale", "").strip() for _, row in rows] if isinstance(rows, list) else []
            if suffix == "csv" and any(not re.fullmatch(r"[\w.+-]*", scale) for scale in with_scales):
                continue  # the names of metrics have no spaces: other tests say what becomes of them
            outcome(read_knowledge, path)
        else:
            reader, wanted = (read_pairs, pairs_of) if kind == "pairs" else (read_prompts, prompts_of)
        right = wanted(rows) if isinstance(rows, list) else rows
        found = outcome(reader, path)
        assert (found or 0) == (right or 0), content
        if kind == "pairs" and not is_document(content):
            assert (outcome(read_public_pairs, path) or 0) == (right or 0), content
        seen["refused" if isinstance(found, int) else "read"] += 1
    assert min(seen["read"], seen["refused"]) > 60, seen
