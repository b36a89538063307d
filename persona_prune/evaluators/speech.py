"""Speech: what the model says to open prompts, whether the persona is heard in it, and whether it still answers."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from persona_prune.common.progress import Progress
from persona_prune.common.validation import STRICT, PositiveInt
from persona_prune.evaluators.degenerate import measure
from persona_prune.evaluators.echo import echoes
from persona_prune.evaluators.judge_pairs import judge_pairs
from persona_prune.evaluators.judges import JudgePairs, Panel, panel
from persona_prune.evaluators.other_traits import trait_judges
from persona_prune.evaluators.results import EvalResult
from persona_prune.evaluators.rubric import RubricJudge
from persona_prune.evaluators.topic import topic_floor, topic_percentile
from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.generation import Sampling, answers, end_tokens
from persona_prune.models.likelihood import score
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.rows import Row
from persona_prune.models.sentence_vectors import encoder_is_there
from persona_prune.personas.pair_files import EMBEDDED, embedded_prompts, holds_answers, read_pairs, read_prompts
from persona_prune.personas.pairs import normalise
from persona_prune.personas.persona import AnyPersona, Persona
from persona_prune.personas.splits import Split, split_of

_HEARD = 0.5  # probability above which a judge says that the persona speaks


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Speech:
    """Answers to open prompts, one greedy and several sampled ones a prompt, without a persona prompt.

    Metrics by prompt, means over its answers:

    - ``persona``: probability that the persona and not its opposite speaks, mean of two judges (`judges`), which
      ``persona_vectors`` and ``persona_ngrams`` give apart; ``rival_length`` and ``rival_first_word`` are those of
      rivals that see nothing else.
    - ``coherent``: not degenerate (`degenerate`: empty, a loop, no text) and no ``echo`` of the prompt.
    - ``on_topic``: nearer to its own prompt than to others (`topic`), by what written answers reach.
    - ``expressed``: coherent, on topic and above one half for every judge; anything else is a miss.
    - ``above_dense``: the probability is higher than the dense model's to the same prompt; a tie counts half.
    - ``fluency``: log-probability per token of the answer under the dense model (nats).
    - ``distinct_2``, ``tokens``, ``ended``: variety, length without the end token, and whether the model ended it.
    - ``trait_<set>``: what the n-gram judges of the other embedded axes hear, towards their matching pole.

    Whole-run figures are ``prompts``, how far judges can be trusted (`judges.Panel.trust`), and what written answers
    score: ``written_persona``, ``written_expressed`` and ``written_opposite``.

    Attributes:
        prompts_path: JSONL or CSV with ``prompt``; null for the persona's embedded open prompts.
        prompts_split: that part of the file only, by a hash of the prompt (`splits.split_of`); null for all.
        limit: use the first so many prompts (of a mix: as many in all); null for all.
        max_new_tokens: length of an answer at most.
        samples: sampled answers to a prompt, 0 for none.
        temperature: of the sampled answers.
        top_p: sample among the likeliest tokens that together have this probability.
        seed: of the sampled answers; each has random numbers of its own, from seed, prompt and the answer's number.
        batch_size: answers per batch.
        judge_path: pairs that judges learn from; null for what `judge_pairs` finds.
        calibration_path, calibration_split: the calibration's, so that its validation part can serve.
        other_traits: whether judges of the other embedded axes read the answers, too.
        judge: a third judge, a chat model that is asked; `rubric.RubricJudge`.
    """

    measures_alignment: ClassVar[bool] = True

    prompts_path: str | None
    prompts_split: Split | None
    limit: PositiveInt | None
    max_new_tokens: PositiveInt
    samples: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0.0)]
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    seed: int
    batch_size: PositiveInt
    judge_path: str | None
    calibration_path: str | None
    calibration_split: Split | None
    other_traits: bool
    judge: dict[str, Any]

    def __post_init__(self) -> None:
        self._rubric  # noqa: B018 (refuses a judge that makes no sense)

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError or OSError if prompts or judges' pairs cannot be read, or a judge can't be asked."""
        self._items(persona)
        for part, _ in persona.parts:
            self._judge_pairs(part)
        if self._rubric is not None:
            self._rubric.check()

    def prompts(self, persona: AnyPersona) -> set[str]:
        """Return the normalised prompts."""
        return {normalise(item.prompt) for item in self._items(persona)}

    def identity(self, persona: AnyPersona) -> object:
        """Return settings, prompts and the pairs that judges learn from."""
        sampling = [self.samples, self.temperature, self.top_p, self.seed] if self.samples else None
        judged = [
            [[pair.prompt, pair.matching, pair.not_matching] for pair in pairs.fit + pairs.test]
            for pairs in (self._judge_pairs(part) for part, _ in persona.parts)
        ]
        digest = hashlib.sha256(repr(judged).encode()).hexdigest()
        asked = [[item.prompt, [part.shown for part, _ in item.who.parts]] for item in self._items(persona)]
        rubric = None if self._rubric is None else self._rubric.identity(persona)
        return [
            self.max_new_tokens,
            self.batch_size,
            sampling,
            asked,
            digest,
            encoder_is_there(),
            self.other_traits,
            rubric,
        ]

    def evaluate(
        self, loaded: LoadedModel, persona: AnyPersona, dense: EvalResult | None, progress: Progress
    ) -> EvalResult:
        """Answer every prompt and judge the answers; `complete` adds what needs the dense model."""
        items = self._items(persona)
        said = self._answers(loaded, items, progress)
        texts = [answer.text for group in said for answer in group]
        flat = [item for item in items for _ in range(1 + self.samples)]
        figures = self._judged(flat, texts)
        for figure, answer in zip(figures, (answer for group in said for answer in group), strict=True):
            figure |= {
                "tokens": float(len(answer.ids)) if answer.ids else 0.0,
                "ended": float(len(answer.ids) < self.max_new_tokens),
            }
        if self._rubric is not None:
            rated = self._rubric.rate(
                persona, [(item.prompt, text) for item, text in zip(flat, texts, strict=True)], progress
            )
            for figure, own in zip(figures, rated, strict=True):
                figure |= own
        size = 1 + self.samples
        before = {} if dense is None else {sample["id"]: sample for sample in dense.samples}
        samples = []
        for i, (item, group) in enumerate(zip(items, said, strict=True)):
            values = _means(figures[i * size : (i + 1) * size])
            sample: dict[str, Any] = {
                "id": i,
                "persona": item.who.shown,
                "prompt": item.prompt,
                "answer": group[0].text,
                "sampled_answers": [answer.text for answer in group[1:]],
                "answer_persona": figures[i * size]["persona"],
                "tokens": [list(answer.ids) for answer in group],
            }
            if dense is not None:
                theirs = before[i]["values"]["persona"]
                values["above_dense"] = float(np.sign(values["persona"] - theirs) + 1) / 2
                sample |= {f"dense_{key}": before[i][key] for key in ("answer", "sampled_answers")}
            samples.append(sample | {"values": values})
        return EvalResult(samples, {"prompts": float(len(items)), **self._reference(persona)})

    def complete(self, loaded: LoadedModel, result: EvalResult, progress: Progress) -> EvalResult:
        """Return ``result`` with ``fluency``: what the dense model, which ``loaded`` is now, makes of every answer."""
        encoded = [self._encoded(loaded, sample["prompt"]) for sample in result.samples]
        rows = [
            Row(prompt, (tuple(ids),))
            for prompt, sample in zip(encoded, result.samples, strict=True)
            for ids in sample["tokens"]
            if ids
        ]
        scored = iter(score(loaded, rows, self.batch_size, progress("fluency", len(rows))) if rows else [])
        samples = []
        for sample in result.samples:
            found = [next(scored)[0].log_probs.double().mean().item() for ids in sample["tokens"] if ids]
            fluency = float(np.mean(found)) if found else None
            shown = {key: value for key, value in sample.items() if key != "tokens"}
            samples.append({**shown, "values": {**sample["values"], "fluency": fluency}})
        return replace(result, samples=samples)

    @functools.cached_property
    def _rubric(self) -> RubricJudge | None:
        return RubricJudge.of(self.judge)

    def _items(self, persona: AnyPersona) -> "list[_Item]":
        if self.prompts_path is not None:
            # Of pairs, those that choice would ask: public files have a few rows that ask nothing.
            pairs = read_pairs(self.prompts_path) if holds_answers(self.prompts_path) else ()
            read = dict.fromkeys([pair.prompt for pair in pairs] or read_prompts(self.prompts_path))
            prompts = [prompt for prompt in read if self.prompts_split in (None, split_of(prompt))][: self.limit]
            if not prompts:
                raise ValueError(f"{self.prompts_path}: no prompt falls into the {self.prompts_split} split")
            return [_Item(persona, prompt) for prompt in prompts]
        if self.prompts_split is not None:
            raise ValueError("prompts_split takes a part of a file: give evaluator.speech.prompts_path too")
        parts = [part for part, _ in persona.parts]
        each = None if self.limit is None else -(-self.limit // len(parts))
        return [_Item(part, prompt) for part in parts for prompt in embedded_prompts(part)[:each]][: self.limit]

    def _judge_pairs(self, part: Persona) -> JudgePairs:
        return judge_pairs(
            part,
            path=self.judge_path,
            prompts_path=self.prompts_path,
            prompts_split=self.prompts_split,
            calibration_path=self.calibration_path,
            calibration_split=self.calibration_split,
        )

    def _panels(self, who: AnyPersona) -> list[Panel]:
        return [panel(self._judge_pairs(part)) for part, _ in who.parts]

    def _answers(self, loaded: LoadedModel, items: "Sequence[_Item]", progress: Progress) -> "list[list[_Answer]]":
        """Return, by item, the greedy answer and then the sampled ones, all decoded in the same batches."""
        size = 1 + self.samples
        found = answers(
            loaded,
            [self._encoded(loaded, item.prompt) for item in items for _ in range(size)],
            seeds=[None if k == 0 else _seed(self.seed, item.prompt, k) for item in items for k in range(size)],
            sampling=Sampling(self.temperature, self.top_p),
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            on_batch=progress("answers", len(items) * size),
        )
        ends = end_tokens(loaded)
        flat = [() if ids[0] in ends else ids for ids in found]
        said = [_Answer(loaded.tokenizer.decode(ids, skip_special_tokens=True).strip(), ids) for ids in flat]
        return [said[i : i + size] for i in range(0, len(said), size)]

    @staticmethod
    def _encoded(loaded: LoadedModel, prompt: str) -> tuple[int, ...]:
        text = chat_prompt(loaded.tokenizer, prompt, loaded.before(prompt))
        return tuple(loaded.tokenizer(text, add_special_tokens=False).input_ids)

    def _judged(self, items: "Sequence[_Item]", texts: Sequence[str]) -> list[dict[str, float | None]]:
        """Return the figures of every text as an answer to its item."""
        prompts = [item.prompt for item in items]
        others = [*_neutral_prompts(), *prompts]
        percentile = topic_percentile(texts, prompts, others) if encoder_is_there() else None
        figures: list[dict[str, float | None]] = [{} for _ in texts]
        for who in dict.fromkeys(item.who.shown for item in items):
            rows = [i for i, item in enumerate(items) if item.who.shown == who]
            panels = self._panels(items[rows[0]].who)
            said, asked = [texts[i] for i in rows], [prompts[i] for i in rows]
            heard = {
                name: np.mean([one.probabilities(name, said, asked) for one in panels], axis=0)
                for name in (*panels[0].names, *panels[0].rivals)
            }
            floor = np.mean([_floor(one.pairs) for one in panels]) if percentile is not None else 0.0
            traits = trait_judges(items[rows[0]].who)(said) if self.other_traits else {}
            for at, i in enumerate(rows):
                by_judge = [float(heard[name][at]) for name in panels[0].names]
                found = measure(texts[i])
                echo = echoes(prompts[i], texts[i])
                coherent = not found.degenerate and not echo
                topic = None if percentile is None else float(percentile[i] >= floor)
                figures[i] = {
                    "expressed": float(coherent and topic != 0.0 and min(by_judge) > _HEARD),
                    "persona": float(np.mean(by_judge)),
                    "coherent": float(coherent),
                    "on_topic": topic,
                    "echo": float(echo),
                    "degenerate": float(found.degenerate),
                    "distinct_2": found.distinct_2,
                    **{f"persona_{name}": value for name, value in zip(panels[0].names, by_judge, strict=True)},
                    **{f"rival_{name}": float(heard[name][at]) for name in panels[0].rivals},
                    **{f"trait_{name}": float(values[at]) for name, values in traits.items()},
                }
        return figures

    def _reference(self, persona: AnyPersona) -> dict[str, float]:
        """Return how far the judges can be trusted and what written answers score, means over the parts of a mix."""
        found = []
        for part, _ in persona.parts:
            one = panel(self._judge_pairs(part))
            written: dict[str, float] = {}
            for side, names in (("matching", ("persona", "expressed")), ("not_matching", ("opposite",))):
                texts = [getattr(pair, side) for pair in one.pairs.test]
                judged = self._judged_written(part, [pair.prompt for pair in one.pairs.test], texts)
                written |= {f"written_{name}": judged["persona" if name == "opposite" else name] for name in names}
            found.append({**one.trust(), **written})
        shared = set.intersection(*(set(figures) for figures in found))
        return {key: float(np.mean([figures[key] for figures in found])) for key in found[0] if key in shared}

    def _judged_written(self, part: Persona, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
        quiet = replace(self, other_traits=False)
        judged = quiet._judged([_Item(part, prompt) for prompt in prompts], texts)
        return {key: float(np.mean([figure[key] for figure in judged])) for key in ("persona", "expressed")}


@plain_dataclass(frozen=True)
class _Item:
    """A prompt, and who is to be heard in the answer."""

    who: AnyPersona
    prompt: str


@plain_dataclass(frozen=True)
class _Answer:
    """An answer as text and as token ids, none where the model ended at once."""

    text: str
    ids: tuple[int, ...]


@functools.lru_cache(maxsize=16)
def _floor(pairs: JudgePairs) -> float:
    return topic_floor(pairs.test, [*_neutral_prompts(), *(pair.prompt for pair in pairs.test)])


@functools.cache
def _neutral_prompts() -> tuple[str, ...]:
    """Return prompts that are asked nowhere here: what an answer could have been about instead."""
    return read_prompts(EMBEDDED / "neutral" / "heldout_prompts.jsonl")


def _seed(seed: int, prompt: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}:{prompt}".encode()).digest()[:7])


def _means(figures: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Return the mean of every figure over the answers that have it; None if none has."""
    means: dict[str, Any] = {}
    for key in figures[0]:
        values = [figure[key] for figure in figures if figure[key] is not None]
        means[key] = float(np.mean(values)) if values else None  # type: ignore[arg-type]
    return means
