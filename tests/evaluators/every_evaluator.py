"""One small set-up of every evaluator, for tests of what must hold for all of them."""

import json
from pathlib import Path
from typing import Any

from persona_prune.evaluators.base import Evaluator
from persona_prune.evaluators.capability import Capability
from persona_prune.evaluators.choice import Choice
from persona_prune.evaluators.lm_eval_tasks import LMEval
from persona_prune.evaluators.multiple_choice import MultipleChoice
from persona_prune.evaluators.questionnaire import Questionnaire
from persona_prune.evaluators.results import EvalResult
from persona_prune.evaluators.speech import Speech
from persona_prune.models.loaded import LoadedModel
from persona_prune.personas.persona import Persona

EXTROVERT = Persona(
    name="extrovert",
    description="",
    opposite="introvert",
    system_prompt=None,
    pairs="extrovert_introvert",
    pole="matching",
    source=None,
    flip=False,
)
YES_NO = (
    ("Would you like to lead the team?", "Yes, I would.", "No, I would rather not."),
    ("Do you want a bigger budget?", "Yes, as much as there is.", "No, this one will do."),
    ("Shall we let others decide?", "No, we decide ourselves.", "Yes, let them decide."),
    ("Is it fine to step back now?", "No, not for a moment.", "Yes, it is time to rest."),
)
TEMPLATES = ["Options:\n{options}\n\nStatement: {item}\n\nWhich option describes you?", "{item}\n{options}\nAnswer:"]


def speech(**changes: Any) -> Speech:
    """Return the evaluator of speech, greedy, on the embedded prompts, without a judge that is asked."""
    plain = {
        "prompts_path": None,
        "prompts_split": None,
        "limit": None,
        "max_new_tokens": 12,
        "samples": 0,
        "temperature": 0.7,
        "top_p": 0.95,
        "seed": 5,
        "batch_size": 32,
        "judge_path": None,
        "calibration_path": None,
        "calibration_split": None,
        "other_traits": False,
        "judge": {"base_url": None, "model": None},
    }
    return Speech(**(plain | changes))


def every_evaluator(folder: Path, *, batch_size: int) -> dict[str, Evaluator]:
    """Return every evaluator by name; those that read items read four yes/no questions from ``folder``."""
    pairs, questions = folder / "pairs.jsonl", folder / "questions.jsonl"
    rows = [dict(zip(("prompt", "matching", "not_matching"), row, strict=True)) for row in YES_NO]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"prompt": row[0], "options": ["Yes", "No"], "answer": int(row[1].startswith("No"))} for row in YES_NO]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "choice": Choice(path=str(pairs), split=None, limit=None, batch_size=batch_size),
        "multiple_choice": MultipleChoice(
            format=None,
            dataset=None,
            revision=None,
            name=None,
            path=str(questions),
            split=None,
            limit=None,
            batch_size=batch_size,
        ),
        "questionnaire": Questionnaire(
            name="sixteen_types",
            path=None,
            options=["Disagree", "Neutral", "Agree"],
            templates=TEMPLATES,
            limit=2,
            norm_sex="N",
            norm_age=30,
            generate=True,
            generate_templates=1,
            answer_tokens=6,
            batch_size=batch_size,
        ),
        "speech": speech(limit=6, max_new_tokens=32, temperature=1.0, top_p=1.0, batch_size=batch_size),
        "lm_eval": LMEval(
            tasks=["persona_extrovert"],
            include_path=None,
            metadata=None,
            num_fewshot=None,
            apply_chat_template=True,
            limit=8,
            batch_size=batch_size,
        ),
        "capability": Capability(
            text_path=None,
            window=128,
            max_text_tokens=512,
            neutral_path=None,
            answer_tokens=8,
            batch_size=batch_size,
        ),
    }


def ask(evaluator: Evaluator, loaded: LoadedModel, dense: EvalResult | None = None) -> EvalResult:
    """Evaluate the model as it stands, for the extrovert, without progress bars."""
    return evaluator.evaluate(loaded, EXTROVERT, dense, lambda label, total: lambda done: None)
