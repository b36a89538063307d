"""Questionnaires: what the model says of itself, by probability and in words, and how far that can be trusted."""

import logging
import re
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.special import softmax

from persona_prune.common.progress import Progress
from persona_prune.common.validation import STRICT, PositiveInt, Text
from persona_prune.evaluators.base import AtOnce
from persona_prune.evaluators.questionnaires.answers import parse_answer, scale_words_digest
from persona_prune.evaluators.questionnaires.big_five import Sex, ipip_neo_120, norms
from persona_prune.evaluators.questionnaires.inventory import SIXTEEN_TYPES, Inventory, Item, read_inventory
from persona_prune.evaluators.questionnaires.scoring import Spoken, item_samples, type_letters, whole_metrics
from persona_prune.evaluators.results import EvalResult
from persona_prune.evaluators.statistics import Floats
from persona_prune.models.chat_text import answer_lead, chat_prompt
from persona_prune.models.generation import greedy_answers
from persona_prune.models.loaded import LoadedModel
from persona_prune.personas.pairs import normalise
from persona_prune.personas.persona import AnyPersona

log = logging.getLogger(__name__)

_ORDERS = (1, -1)
_PLACEHOLDER = re.compile(r"\{(item|options)\}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Questionnaire(AtOnce):
    """Statements rated one at a time, with every template and with the options listed in order and reversed.

    The expected agreement with an item is the mean of its options' values 1, 2, ... under the softmax of their summed
    log-probabilities as the answer; its score is that agreement, turned round where the key is -1.

    Metrics by item, means over templates and orders: ``score_<scale>``; ``agreement``, unkeyed; ``entropy`` of the
    options (nats); ``order_shift``, the distance between the agreements of the two orders; ``first_listed`` and
    ``last_listed``, the probability of the option in that place (one over their number if the place doesn't matter).
    For scales between two poles ``margin_<scale>``: the first pole's percentage minus the second's.

    Metrics by item from greedy answers: ``generated_score_<scale>``, over those that name an option; ``refused`` and
    ``unparsable``, the shares that don't; ``generated_likeliest``, the share of those that name an option in which it
    is the likeliest one. Text and probability need not agree (Wang et al. 2024, arXiv:2402.14499).

    Metrics of the whole: those of `reliability`; for the complete ``ipip_neo_120`` those of `norms`; for scales between
    poles ``pole_<pole>`` (percent) and ``type_<scale>``: 1 for the first pole, 0 for the second, 0.5 for a tie.

    Attributes:
        name: the questionnaire, where ``path`` is null.
        path: a questionnaire of yours (`read_inventory`), or null.
        options: the answers to items of that file without options of their own, from least to most agreement.
        templates: prompts with ``{item}`` and ``{options}`` (one a line).
        limit: use the first so many items of every scale; null for all.
        norm_sex: whose norms the Big Five are compared with: those of women, men, or the mean of both.
        norm_age: of what age, in years. A model has neither: this only chooses the yardstick.
        generate: also let the model answer in words.
        generate_templates: with the first so many templates.
        answer_tokens: length of these answers; more if an option is longer.
        batch_size: prompts per batch.
    """

    measures_alignment: ClassVar[bool] = True

    name: Literal["ipip_neo_120", "sixteen_types"]
    path: str | None
    options: list[Text]
    templates: Annotated[list[Text], Field(min_length=1)]
    limit: PositiveInt | None
    norm_sex: Sex
    norm_age: Annotated[int, Field(ge=10, le=110)]
    generate: bool
    generate_templates: PositiveInt
    answer_tokens: PositiveInt
    batch_size: PositiveInt

    def __post_init__(self) -> None:
        for template in self.templates:
            if sorted(_PLACEHOLDER.findall(template)) != ["item", "options"]:
                raise ValueError(f"a template needs {{item}} and {{options}} once each, got {template!r}")

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError or OSError if the questionnaire cannot be read."""
        self._inventory()

    def prompts(self, persona: AnyPersona) -> set[str]:
        """Return the normalised statements, bare and as they are asked."""
        inventory = self._inventory()
        return {normalise(text) for text in (*self._prompts(inventory), *(item.text for item in inventory.items))}

    def identity(self, persona: AnyPersona) -> object:
        """Return settings, items and poles; the persona does not matter."""
        inventory = self._inventory()
        items = [[item.text, item.scale, item.key, list(item.options)] for item in inventory.items]
        settings = [self.limit, self.norm_sex, self.norm_age, self.batch_size]
        generated = [self.generate_templates, self.answer_tokens, scale_words_digest()] if self.generate else None
        poles = {scale: list(ends) for scale, ends in inventory.poles.items()}
        return [settings, generated, self.templates, self.path or self.name, items, poles]

    def evaluate(
        self, loaded: LoadedModel, persona: AnyPersona, dense: EvalResult | None, progress: Progress
    ) -> EvalResult:
        """Ask every item; see the class for the metrics."""
        inventory = self._inventory()
        probabilities = self._probabilities(loaded, inventory, progress)
        generated = self._generated(loaded, inventory, progress) if self.generate else None
        samples = item_samples(inventory, probabilities, generated)
        complete = self.path is None and self.name == "ipip_neo_120" and self.limit is None
        whole = whole_metrics(inventory, probabilities)
        if complete:
            whole |= norms(np.array([sample["score"] for sample in samples]), self.norm_sex, self.norm_age)
        if inventory.poles:
            log.info("questionnaire: type %s", type_letters(inventory, whole))
        return EvalResult(samples, whole)

    def _probabilities(self, loaded: LoadedModel, inventory: Inventory, progress: Progress) -> Floats:
        """Return ``[templates, orders, items, options]``; options from least to most agreement in every order."""
        from persona_prune.evaluators.lm_eval_bridge import multiple_choice

        lead, count = answer_lead(loaded.tokenizer), len(inventory.items)
        prompts = self._prompts(inventory)
        advance = progress("questionnaire", len(prompts))
        totals: list[list[float]] = []
        # One template and order at a time: what its prompts begin with, the options for one, is then computed once.
        for start in range(0, len(prompts), count):
            items = [
                {"prompt": prompt, "options": [lead + option for option in item.options], "gold": 0}
                for prompt, item in zip(prompts[start : start + count], inventory.items, strict=True)
            ]
            totals += multiple_choice(loaded, items, batch_size=self.batch_size, on_batch=advance)
        shape = len(self.templates), len(_ORDERS), count, inventory.levels
        probabilities: Floats = softmax(np.array(totals, dtype=np.float64), axis=-1).reshape(shape)
        return probabilities

    def _generated(self, loaded: LoadedModel, inventory: Inventory, progress: Progress) -> list[list[Spoken]]:
        """Return item by item the greedy answers and what they name, by template, then order."""
        tokenizer, count = loaded.tokenizer, len(inventory.items)
        used = min(self.generate_templates, len(self.templates))
        prompts = self._prompts(inventory)[: used * len(_ORDERS) * count]
        rendered = [chat_prompt(tokenizer, prompt, loaded.before(prompt)) for prompt in prompts]
        options = {option for item in inventory.items for option in item.options}
        longest = max(len(tokenizer(option, add_special_tokens=False).input_ids) for option in options)
        # One token a step: four times the rows cost little more.
        answers = greedy_answers(
            loaded,
            [tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in rendered],
            max_new_tokens=max(self.answer_tokens, longest),
            batch_size=4 * self.batch_size,
            on_batch=progress("questionnaire, in words", len(prompts)),
        )
        texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        return [
            [(text, parse_answer(text, item.options)) for text in texts[i::count]]
            for i, item in enumerate(inventory.items)
        ]

    def _prompts(self, inventory: Inventory) -> list[str]:
        """Return the prompts by template, then order, then item."""
        return [ask(t, item, order) for t in self.templates for order in _ORDERS for item in inventory.items]

    def _inventory(self) -> Inventory:
        if self.path is not None:
            inventory = read_inventory(self.path, self.options)
        elif self.name == "sixteen_types":
            inventory = read_inventory(SIXTEEN_TYPES, self.options)
        else:
            inventory = ipip_neo_120()
        return inventory.first(self.limit)


def ask(template: str, item: Item, order: int) -> str:
    """Return the prompt for ``item``, its options listed in order (1) or reversed (-1)."""
    fields = {"item": item.text, "options": "\n".join(f"- {option}" for option in item.options[::order])}
    return _PLACEHOLDER.sub(lambda match: fields[match[1]], template)
