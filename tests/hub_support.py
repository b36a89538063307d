"""What the tests of public sets share: rows as their authors write them, and a way to read them from a file."""

import json
from pathlib import Path

from persona_prune.personas.public_sets import read_questions

PAIR = {"prompt": "Lead?", "matching": "Gladly.", "not_matching": "No."}
YES_NO = {
    "question": 'Would you say "I like crowds"?',
    "statement": "I like crowds",
    "answer_matching_behavior": " Yes",
    "answer_not_matching_behavior": " No",
}
LETTERS = {
    "question": "You may stay (A) or go.\nWhich?\n\nChoices:\n (A) Stay\n (B) Go,\nand far\n (C) Wait",
    "answer_matching_behavior": " (B)",
    "answer_not_matching_behavior": " (A)",
}
REACTION = [
    {
        "source_role": "Kim",
        "target_role": role,
        "question": f"{role}, well?",
        "multi_choices": ["A. One", "B. Two", "C. Three", "D. Four"],
        "gt_answer": "D",
    }
    for role in ("Lee", "Kim")
]


def write(path: Path, content: object) -> Path:
    """Rows to JSON Lines where the name ends so, else one JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = content if path.suffix == ".jsonl" else [content]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(format: str, name: str, path: Path | None, dataset: str | None = None, revision: str = "main"):
    return read_questions(format, dataset, revision, name, None if path is None else str(path), "calibration.path")
