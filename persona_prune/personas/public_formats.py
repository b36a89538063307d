"""The rows of public persona sets, format by format: pure functions from rows to questions."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from persona_prune.personas.pairs import Question

log = logging.getLogger(__name__)

Format = Literal["ai_persona", "machine_mindset", "model_written_evals", "role_agent_bench", "trait"]

_CHOICES = re.compile(r"\s*(?:Choices:)?\s*^\s*\(A\)", re.MULTILINE)
_CHOICE = re.compile(r"^\s*(\([A-Z]\))\s*(.*?)\s*(?=^\s*\([A-Z]\)|\Z)", re.MULTILINE | re.DOTALL)


class SourceRow(NamedTuple):
    """One row of a file: where it stands (for messages), its columns, and the number of its file."""

    where: str
    values: Mapping[str, Any]
    file: int


Found = list[tuple[str, Question]]  # questions, each with the place it was read from


def ai_persona(rows: Iterable[SourceRow], name: str) -> Found:
    """Parse ``prompt``, ``matching``, ``not_matching``, such as AI Persona.

    In its ``data/power-seeking/train.csv`` of github.com/CaoYuanpu/BiPO the first column is called ``question``.
    """
    asked = ("prompt", "question")
    return [
        _found(row, next((key for key in asked if key in row.values), asked[0]), "matching", "not_matching")
        for row in rows
    ]


def machine_mindset(rows: Sequence[SourceRow], name: str) -> Found:
    """Parse one file of pairs as `ai_persona`, or join a file for each pole (`SourceRow.file` 0 and 1).

    A pole's file is as in ``datasets/behaviour`` of github.com/PKU-YuanGroup/Machine-Mindset, whose README calls the
    hub copy identical: ``instruction``, ``input`` (often a space), ``output`` in ``en_<dimension>_<pole>.json``. Not
    checked against the hub: the files' directory, and whether they spell ``energy`` (files on GitHub) or ``energe``
    (README); any will do. Answers to the same prompt are joined, in order where it repeats; others are left out.
    """
    if not any("instruction" in row.values for row in rows):
        return ai_persona(rows, name)
    answers: dict[str, tuple[list[SourceRow], list[SourceRow]]] = {}
    for row in rows:
        parts = (_text(row, key).strip() for key in ("instruction", "input"))
        answers.setdefault("\n".join(part for part in parts if part), ([], []))[row.file].append(row)
    joined = [
        (one.where, Question(prompt, (_text(one, "output"), _text(other, "output")), 0))
        for prompt, (first, second) in answers.items()
        for one, other in zip(first, second)
    ]
    if len(rows) > 2 * len(joined):
        log.warning("%s: left out %d answers that only one pole gave", name, len(rows) - 2 * len(joined))
    return joined


def model_written_evals(rows: Iterable[SourceRow], name: str) -> Found:
    """Parse ``question``, ``answer_matching_behavior``, ``answer_not_matching_behavior`` (github.com/anthropics/evals).

    Answers such as " Yes" are the options. Answers such as "(A)" stand for choices inside the question: these become
    the options and the text before them the prompt; where they can't be found, the letters stay the options.
    """
    found = []
    for row in rows:
        prompt = question = _text(row, "question")
        matching, other = (_text(row, f"answer_{key}_behavior").strip() for key in ("matching", "not_matching"))
        keys = options = sorted((matching, other))
        choices = dict(_CHOICE.findall(question))
        if {matching, other} <= set(choices):
            prompt, keys, options = _CHOICES.split(question)[0].strip(), list(choices), list(choices.values())
        found.append((row.where, Question(prompt, tuple(options), keys.index(matching))))
    return found


def role_agent_bench(rows: Iterable[SourceRow], name: str) -> Found:
    """Parse lettered multiple-choice questions of one role (``SCRIPT/ROLE``) or of all roles of a script (``SCRIPT``).

    Either ``reaction.json`` of RoleAgentBench (``target_role``, ``question``, ``multi_choices``, ``gt_answer``: as
    public code reads it, not checked against the hub), or CroSS-MR of github.com/Joanna0123/character_profiling.
    """
    asked = [part.strip().casefold() for part in name.partition("/")[::2]]
    found = []
    for row in rows:
        there = [str(row.values.get(key, "")).strip().casefold() for key in ("script", "target_role")]
        if any(is_there and wanted not in ("", is_there) for is_there, wanted in zip(there, asked)):
            continue
        if "multi_choices" in row.values:
            prompt, options, key = _text(row, "question"), row.values["multi_choices"], _text(row, "gt_answer")
        else:
            prompt = f"{_text(row, 'Scenario').strip()}\n{_text(row, 'Question').strip()}"
            options, key = row.values.get("Options"), _text(row, "Correct Answer")
        letter = re.match(r"\W*([A-Z])\b", key)
        if not isinstance(options, list) or letter is None or ord(letter[1]) - 65 >= len(options) or len(options) < 2:
            raise ValueError(f"{row.where}: expected options and the letter of one, got {options!r:.50}, {key!r:.20}")
        texts = tuple(re.sub(rf"^\s*{chr(65 + i)}\s*[.:)]", "", str(text)).strip() for i, text in enumerate(options))
        found.append((row.where, Question(prompt, texts, ord(letter[1]) - 65)))
    return found


def trait(rows: Iterable[SourceRow], name: str) -> Found:
    """Parse TRAIT (arXiv:2406.14703), rows of the ``personality`` only: each high response against both low ones."""
    return [
        _found(row, "question", high, "response_low1", "response_low2")
        for row in rows
        if str(row.values.get("personality", name)).casefold() == name.casefold()
        for high in ("response_high1", "response_high2")
    ]


PARSERS: Mapping[str, Callable[[Sequence[SourceRow], str], Found]] = {
    parser.__name__: parser for parser in (ai_persona, machine_mindset, model_written_evals, role_agent_bench, trait)
}


def _found(row: SourceRow, prompt: str, *options: str) -> tuple[str, Question]:
    return row.where, Question(_text(row, prompt), tuple(_text(row, option) for option in options), 0)


def _text(row: SourceRow, key: str) -> str:
    value = row.values.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{row.where}: no text in '{key}' (columns: {', '.join(map(str, row.values)) or 'none'})")
    return value
