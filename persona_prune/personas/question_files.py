"""Questions of knowledge and common sense from a file, in the shapes that HellaSwag, MMLU, ARC and others come in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from persona_prune.common.row_files import Row, file_rows
from persona_prune.personas.pairs import Question

_PROMPTS = ("query", "question", "prompt", "ctx", "goal")
_OPTIONS = ("choices", "options", "endings")
_ANSWERS = ("gold", "answer", "label", "answerKey")


def read_knowledge(path: str | Path) -> list[Question]:
    """Read a JSONL (or CSV) file of questions with one right option.

    A row has the question as ``query``, ``question``, ``prompt``, ``ctx`` or ``goal``; the options as ``choices``,
    ``options`` or ``endings``, a list or ARC's ``{"text": [...], "label": [...]}``, or as ``sol1`` and ``sol2``; and
    the right one as ``gold``, ``answer``, ``label`` or ``answerKey``: its index, the index as text, or its letter. So
    the rows of HellaSwag, MMLU, ARC and PIQA can be used as they are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row is malformed (the message names file and line), or the file is empty.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no question file at {path}")
    questions = []
    for line, row in file_rows(path):
        try:
            questions.append(_question(row))
        except ValidationError as error:
            told = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"{path}, line {line}: {told}") from None
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    return questions


def lettered(question: Question) -> Question:
    """Return ``question`` as MMLU asks it: the options listed under letters, which are what is answered with."""
    letters = tuple(chr(ord("A") + number) for number in range(len(question.options)))
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, question.options, strict=True))
    return Question(f"{question.prompt}\n{listed}\nAnswer:", letters, question.answer)


def _question(row: Row) -> Question:
    if {"sol1", "sol2"} <= row.keys():
        row = {"options": [row["sol1"], row["sol2"]], **row}
    prompt, options, answer = _first(row, _PROMPTS), _first(row, _OPTIONS), _first(row, _ANSWERS)
    labels: Sequence[str] = ()
    if isinstance(options, dict):
        labels, options = [str(label) for label in options.get("label", ())], options.get("text")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"the question ({' or '.join(_PROMPTS)}) must be a text, got {prompt!r}")
    if not isinstance(options, list) or not all(isinstance(text, str) and text.strip() for text in options):
        raise ValueError(f"the options ({' or '.join(_OPTIONS)}) must be texts, got {options!r}")
    return Question(prompt.strip(), tuple(text.strip() for text in options), _index(answer, labels, len(options)))


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(f"no {' or '.join(names)}; the row has {', '.join(map(str, row)) or 'nothing'}")


def _index(answer: object, labels: Sequence[str], count: int) -> int:
    text = str(answer).strip()
    if text in labels:
        return labels.index(text)
    if text.isdecimal() and not isinstance(answer, bool):
        return int(text)
    if len(text) == 1 and "A" <= text.upper() < chr(ord("A") + count):
        return ord(text.upper()) - ord("A")
    raise ValueError(f"the right option ({' or '.join(_ANSWERS)}) must be an index or a letter, got {answer!r}")


def read_own(path: Path, role: str) -> list[Question]:
    """Read questions with ``prompt``, ``options`` and ``answer``; of rows that name a ``role``, those of ``role``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row is malformed (the message names file and line), or none is of the role.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no question file at {path}")
    questions, roles = [], set()
    for line, row in file_rows(path):
        question = _own_question(row, f"{path}, line {line}")
        roles.add(str(row.get("role", role)))
        if row.get("role", role) == role:
            questions.append(question)
    if not questions:
        raise ValueError(f"{path}: no questions of role {role}; there is {', '.join(sorted(roles))}")
    return questions


def _own_question(row: Row, where: str) -> Question:
    prompt, options, answer = row.get("prompt", row.get("question")), row.get("options"), row.get("answer")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{where}: no 'prompt'; questions need prompt, options, answer")
    texts = options if isinstance(options, list) else []
    if len(set(map(str, texts))) < len(texts) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{where}: 'options' must be different texts, got {options!r}")
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise ValueError(f"{where}: 'answer' must be the index of an option, got {answer!r}")
    try:
        return Question(prompt, tuple(texts), answer)
    except ValidationError as error:
        raise ValueError(f"{where}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
