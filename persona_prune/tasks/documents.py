"""Documents of the tasks beside this file; lm-eval loads it by its path and calls the function that a YAML names.

Each function returns the only split, ``test``, with ``prompt``, ``options`` and ``gold``. The position of the persona's
option goes round from document to document, since lm-eval counts a tie for the first option; questions of knowledge
keep their order.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from persona_prune.personas.pair_files import EMBEDDED, read_pairs
from persona_prune.personas.pairs import Pole, Question
from persona_prune.personas.public_formats import Format
from persona_prune.personas.public_sets import read_questions
from persona_prune.personas.question_files import lettered, read_knowledge, read_own


def embedded_pairs(*, pairs: str, pole: Pole, **_: object) -> dict[str, Dataset]:
    """Return the test pairs of an embedded set, ``pole`` being the persona's side of them."""
    found = read_pairs(EMBEDDED / pairs / "test.jsonl")
    answer = 0 if pole == "matching" else 1
    return _balanced([Question(pair.prompt, (pair.matching, pair.not_matching), answer) for pair in found])


def public_set(*, format: Format, **metadata: object) -> dict[str, Dataset]:
    """Return the questions of a local file in a public format; lm-eval's metadata names it under the format's name.

    Raises:
        ValueError: no file is named, or it is malformed.
        OSError: there is no such file.
    """
    path = Path(_named(metadata, format))
    return _balanced(read_questions(format, None, None, path.stem, str(path), f"metadata.{format}"))


def embedded_role(*, pairs: str, persona: str, **_: object) -> dict[str, Dataset]:
    """Return the questions about the role of ``persona`` in an embedded set."""
    return _balanced(read_own(EMBEDDED / pairs / "role_questions.jsonl", persona))


def role_questions(**metadata: object) -> dict[str, Dataset]:
    """Return the questions of the file that metadata names, about ``role`` where it has several roles.

    Raises:
        ValueError: no file is named, it is malformed, or has other roles only.
        OSError: there is no such file.
    """
    path = Path(_named(metadata, "role_questions"))
    return _balanced(read_own(path.expanduser(), str(metadata.get("role", ""))))


def local_questions(**metadata: object) -> dict[str, Dataset]:
    """Return the questions of knowledge in a file (`knowledge.read_knowledge`), in the order of the file's options.

    Raises:
        ValueError: no file is named, or it is malformed.
        OSError: there is no such file.
    """
    return _documents(read_knowledge(_named(metadata, "local_questions")))


def local_letters(**metadata: object) -> dict[str, Dataset]:
    """Return the same with the options listed under letters; raise as `local_questions`."""
    return _documents([lettered(question) for question in read_knowledge(_named(metadata, "local_letters"))])


def _named(metadata: dict[str, object], key: str) -> str:
    if not metadata.get(key):
        raise ValueError(
            f'needs a file: lm_eval --metadata \'{{"{key}": "FILE"}}\', or "evaluator.lm_eval.metadata={{{key}: FILE}}"'
        )
    return str(metadata[key])


def _balanced(questions: Sequence[Question]) -> dict[str, Dataset]:
    turned = []
    for number, question in enumerate(questions):
        options = list(question.options)
        gold = number % len(options)
        options.insert(gold, options.pop(question.answer))
        turned.append(Question(question.prompt, tuple(options), gold))
    return _documents(turned)


def _documents(questions: Sequence[Question]) -> dict[str, Dataset]:
    # Bare options: lm-eval puts its delimiter, or the chat template's end, before them.
    rows = [
        {"prompt": question.prompt, "options": [option.strip() for option in question.options], "gold": question.answer}
        for question in questions
    ]
    return {"test": Dataset.from_list(rows)}
