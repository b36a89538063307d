"""Questions with two or more options: is the persona's option the likeliest of all?"""

import math
from pathlib import Path
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from persona_prune.common.progress import Progress
from persona_prune.common.validation import STRICT, PositiveInt
from persona_prune.evaluators.base import AtOnce
from persona_prune.evaluators.results import EvalResult
from persona_prune.models.chat_text import answer_lead, chat_prompt, encode_answer
from persona_prune.models.loaded import LoadedModel
from persona_prune.personas.pair_files import EMBEDDED
from persona_prune.personas.pairs import Question, normalise
from persona_prune.personas.persona import AnyPersona
from persona_prune.personas.public_formats import Format
from persona_prune.personas.public_sets import read_questions, shows_opposite
from persona_prune.personas.question_files import read_own
from persona_prune.personas.splits import Split, split_of


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MultipleChoice(AtOnce):
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

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError or OSError if the questions cannot be read."""
        self._questions(persona)

    def prompts(self, persona: AnyPersona) -> set[str]:
        """Return the normalised prompts of the questions."""
        return {normalise(question.prompt) for question in self._questions(persona)}

    def identity(self, persona: AnyPersona) -> object:
        """Return batch size and questions."""
        return [self.batch_size, [[q.prompt, q.options, q.answer] for q in self._questions(persona)]]

    def evaluate(
        self, loaded: LoadedModel, persona: AnyPersona, dense: EvalResult | None, progress: Progress
    ) -> EvalResult:
        """Score every option of every question; see the class for the metrics."""
        from persona_prune.evaluators.lm_eval_bridge import multiple_choice

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

    def _questions(self, persona: AnyPersona) -> list[Question]:
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


def _embedded(persona: AnyPersona) -> Path:
    path = EMBEDDED / str(persona.pairs) / "role_questions.jsonl"
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
    if any(math.isnan(value) for value in values):
        return math.nan
    best = [number for number, value in enumerate(values) if value == max(values)]
    return 1 / len(best) if chosen in best else 0.0
