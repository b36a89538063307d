"""Questions with two or more options: is the persona's option the likeliest of all?"""

import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from persona_prune.data import PERSONAS_DATA, Split, split_of
from persona_prune.evaluators.base import EvalResult, Progress
from persona_prune.hub import read_questions, shows_opposite
from persona_prune.hub_formats import Format
from persona_prune.likelihood import answer_lead, chat_prompt, encode_answer
from persona_prune.models import LoadedModel
from persona_prune.personas import Mix, Persona, Question, normalise
from persona_prune.text_files import read_text
from persona_prune.validation import STRICT, PositiveInt


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MultipleChoice:
    """The persona's option against all others, each scored as the answer to the prompt by itself.

    Metrics by item: ``accuracy`` (summed log-probability; options that tie for the first place share the point),
    ``accuracy_norm`` (per token), ``margin`` (per-token log-probability of the persona's option minus the mean of the
    others', nats), ``yes_rate`` (where the options are yes and no: is yes the likelier one?), and, whatever the model,
    ``chance`` (one over the number of options), ``shortest`` and ``longest`` (what always taking that option scores).

    Attributes:
        format: null for questions of the persona's own, else a public set (`hub`).
        dataset, revision, name: which public set; see `hub.HubSet`.
        path: of own questions, JSONL rows with ``prompt`` (or ``question``), ``options``, ``answer`` (index of the
            persona's option) and, if several personas share the file, ``role``; null for the embedded ones. Of a public
            set, a copy on disk.
        split: take that part only (`data.split_of`); null for all.
        limit: ask the first so many questions; null for all.
        batch_size: prompts per batch.
    """

    measures_alignment: ClassVar[bool] = True

    format: Format | None
    dataset: str | None
    revision: str | None
    name: str | None
    path: str | None
    split: Split | None
    limit: PositiveInt | None
    batch_size: PositiveInt

    def __post_init__(self) -> None:
        if self.format is not None and self.name is None:
            raise ValueError(f"name which part of {self.format} to ask: evaluator.multiple_choice.name=...")
        given = [key for key in ("dataset", "revision", "name") if getattr(self, key) is not None]
        if self.format is None and given:
            raise ValueError(
                f"{', '.join(given)}: of a public set, but which? give evaluator.multiple_choice.format=..., too"
            )

    def check(self, persona: Persona | Mix) -> None:
        """Raise ValueError or OSError if the questions cannot be read."""
        self._questions(persona)

    def prompts(self, persona: Persona | Mix) -> set[str]:
        """Return the normalised prompts of the questions."""
        return {normalise(question.prompt) for question in self._questions(persona)}

    def identity(self, persona: Persona | Mix) -> object:
        """Return batch size and questions."""
        return [self.batch_size, [[q.prompt, q.options, q.answer] for q in self._questions(persona)]]

    def evaluate(
        self, loaded: LoadedModel, persona: Persona | Mix, dense: EvalResult | None, progress: Progress
    ) -> EvalResult:
        """Score every option of every question; see the class for the metrics."""
        from persona_prune.evaluators.harness import multiple_choice

        questions = self._questions(persona)
        lead = answer_lead(loaded.tokenizer)
        items = [{"prompt": q.prompt, "options": [lead + o for o in q.options], "gold": q.answer} for q in questions]
        bar = progress("multiple choice", len(items))
        totals = multiple_choice(loaded, items, batch_size=self.batch_size, on_batch=bar)
        samples = []
        for number, (question, total) in enumerate(zip(questions, totals, strict=True)):
            context = chat_prompt(loaded.tokenizer, question.prompt, loaded.before(question.prompt))
            tokens = [len(encode_answer(loaded.tokenizer, context, lead + o)[1]) for o in question.options]
            samples.append({"id": number, **_sample(question, total, tokens)})
        return EvalResult(samples)

    def _questions(self, persona: Persona | Mix) -> list[Question]:
        if self.format is None:
            path = Path(self.path).expanduser() if self.path else _embedded(persona)
            questions = read_own(path, persona.name)
            where = str(path)
        else:
            option = "evaluator.multiple_choice.path"
            where = f"{self.format} {self.name}"
            found = read_questions(self.format, self.dataset, self.revision, str(self.name), self.path, option)
            questions = list(found)
        if persona.flip != (self.format is not None and shows_opposite(str(self.name), persona)):
            if any(len(question.options) > 2 for question in questions):
                raise ValueError(
                    f"{where}: has questions with more than two options, which have no opposite to flip to"
                )
            questions = [Question(q.prompt, q.options, 1 - q.answer) for q in questions]
        chosen = [q for q in questions if self.split is None or split_of(q.prompt) == self.split][: self.limit]
        if not chosen:
            raise ValueError(f"{where}: none of its {len(questions)} questions falls into the {self.split} split")
        return chosen


def read_own(path: Path, role: str) -> list[Question]:
    """Read questions with ``prompt``, ``options`` and ``answer``; of rows that name a ``role``, those of ``role``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row is malformed (the message names file and line), or none is of the role.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no question file at {path}")
    questions, roles = [], set()
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{path}, line {line}"
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: invalid JSON ({error.msg}, column {error.colno})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected an object, got {type(row).__name__}")
        question = _question(row, where)
        roles.add(str(row.get("role", role)))
        if row.get("role", role) == role:
            questions.append(question)
    if not questions:
        raise ValueError(f"{path}: no questions of role {role}; there is {', '.join(sorted(roles))}")
    return questions


def _question(row: dict[str, Any], where: str) -> Question:
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


def _embedded(persona: Persona | Mix) -> Path:
    path = PERSONAS_DATA / str(persona.pairs) / "role_questions.jsonl"
    if not path.is_file():
        raise ValueError(f"persona {persona.name} has no embedded questions: give evaluator.multiple_choice.path=FILE")
    return path


def _sample(question: Question, totals: list[float], tokens: list[int]) -> dict[str, Any]:
    per_token = [total / count for total, count in zip(totals, tokens, strict=True)]
    others = [value for number, value in enumerate(per_token) if number != question.answer]
    lengths = [len(option) for option in question.options]
    words = [option.strip(" .").casefold() for option in question.options]
    return {
        "prompt": question.prompt,
        "options": list(question.options),
        "answer": question.answer,
        "log_prob": totals,
        "tokens": tokens,
        "values": {
            "accuracy": _share_of_first(totals, question.answer),
            "accuracy_norm": _share_of_first(per_token, question.answer),
            "margin": per_token[question.answer] - sum(others) / len(others),
            "yes_rate": _share_of_first(per_token, words.index("yes")) if sorted(words) == ["no", "yes"] else None,
            "chance": 1 / len(totals),
            "shortest": _share_of_first([-float(length) for length in lengths], question.answer),
            "longest": _share_of_first([float(length) for length in lengths], question.answer),
        },
    }


def _share_of_first(values: list[float], chosen: int) -> float:
    best = [number for number, value in enumerate(values) if value == max(values)]
    return 1 / len(best) if chosen in best else 0.0
