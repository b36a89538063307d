"""The texts of a run, looked through once the tokenizer is known and before anything is measured."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from persona_prune.common.row_files import line_holding
from persona_prune.methods.baselines.prompt import Prompt
from persona_prune.models.control_tokens import control_token, quoted, refuse_control_tokens
from persona_prune.runs.plan import Plan, calibration_pairs


def refuse_control_tokens_in(plan: Plan, tokenizer: Any) -> None:
    """Look through everything that a run will put to the model: its system prompt, pairs, prompts, answers and texts.

    Raises:
        ValueError: one holds a control token of ``tokenizer``; the message names the setting and, where the text is
            from a file of the user's, file and line.
    """
    for where, owner, text in _texts(plan):
        token = control_token(tokenizer, text)
        if token is not None:
            refuse_control_tokens(tokenizer, text, f"{where}: {_place(owner, token) or quoted(text)}")


def _texts(plan: Plan) -> Iterator[tuple[str, object, str]]:
    if plan.persona.system_prompt and (plan.with_prompt or isinstance(plan.method, Prompt)):
        yield "persona.system_prompt", None, plan.persona.system_prompt
    for pairs in calibration_pairs(plan.calibration, plan.persona, plan.method):
        for pair in pairs:
            for text in (pair.prompt, pair.matching, pair.not_matching):
                yield "calibration", plan.calibration, text
    for name, evaluator in plan.evaluators.items():
        for text in _strings(evaluator.identity(plan.persona)):
            yield f"evaluator.{name}", evaluator, text


def _strings(node: object) -> Iterator[str]:
    """Yield the texts in JSON values; an evaluator's identity has all that it asks."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        yield from _strings([*node, *node.values()])
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _strings(child)


def _place(owner: object, token: str) -> str | None:
    """Return file and line of a token, where one of the paths among the owner's settings leads to a file with it."""
    settings = vars(owner) if owner is not None else {}
    for path in (Path(value).expanduser() for key, value in settings.items() if key.endswith("path") and value):
        if path.is_file():
            line = line_holding(path, token)
            if line is not None:
                return f"{path}, line {line}"
    return None
