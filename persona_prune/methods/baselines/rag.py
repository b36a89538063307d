"""Retrieval: the calibration pairs that are nearest to a question stand before it as examples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

from pydantic.dataclasses import dataclass

from persona_prune.common.progress import Progress
from persona_prune.common.validation import STRICT, Name, PositiveInt
from persona_prune.masks.applying import Intervention
from persona_prune.methods.baselines.base import Material, refuse_mix
from persona_prune.models.loaded import LoadedModel, Message
from persona_prune.personas.pairs import Pair
from persona_prune.personas.persona import AnyPersona


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rag:
    """Put the ``neighbours`` nearest calibration prompts (cosine of TF-IDF), with matching answers, before a question.

    The nearest stands last. The chat turns are those of an ordinary conversation; there is no system prompt.
    """

    uses_pairs: ClassVar[bool] = True
    uses_validation: ClassVar[bool] = False
    is_control: ClassVar[bool] = False

    name: Name
    neighbours: PositiveInt

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError for a mix."""
        refuse_mix(persona)

    def build(self, loaded: LoadedModel, material: Material, progress: Progress) -> Intervention:
        """Index the pairs' prompts."""
        return Retrieval(material.pairs, self.neighbours)


class Retrieval:
    """Looks up examples for every prompt."""

    def __init__(self, pairs: Sequence[Pair], neighbours: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.neighbors import NearestNeighbors

        # A question with several wrong options is several pairs, but one example.
        self._examples = sorted({(pair.prompt, pair.matching) for pair in pairs})
        self._vectorizer = TfidfVectorizer(sublinear_tf=True)
        vectors = self._vectorizer.fit_transform(prompt for prompt, _ in self._examples)
        self._index = NearestNeighbors(n_neighbors=min(neighbours, len(self._examples)), metric="cosine").fit(vectors)

    @property
    def bytes(self) -> int:
        """Size of the examples that have to be kept."""
        return sum(len(f"{prompt}{answer}".encode()) for prompt, answer in self._examples)

    def examples(self, prompt: str) -> tuple[Message, ...]:
        """Return the examples for ``prompt`` as chat messages, the nearest last."""
        nearest = self._index.kneighbors(self._vectorizer.transform([prompt]), return_distance=False)[0]
        chosen = [self._examples[i] for i in nearest[::-1]]
        roles = ("user", "assistant")
        return tuple({"role": role, "content": text} for example in chosen for role, text in zip(roles, example))

    @contextmanager
    def applied(self, loaded: LoadedModel) -> Iterator[LoadedModel]:
        """Yield the model as it is spoken to; the weights are not touched."""
        yield replace(loaded, before=lambda prompt: (*loaded.before(prompt), *self.examples(prompt)))
