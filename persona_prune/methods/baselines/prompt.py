"""The persona's system prompt: what everybody tries first."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar

import jinja2
from pydantic.dataclasses import dataclass

from persona_prune.common.progress import Progress
from persona_prune.common.validation import STRICT, Name
from persona_prune.masks.applying import Intervention
from persona_prune.methods.baselines.base import Material
from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.loaded import LoadedModel, Message
from persona_prune.personas.persona import AnyPersona


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Prompt:
    """Speak to the dense model after the persona's system prompt."""

    uses_pairs: ClassVar[bool] = False
    uses_validation: ClassVar[bool] = False
    is_control: ClassVar[bool] = False

    name: Name

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError if the persona has no system prompt, or one that describes its opposite."""
        if not (persona.system_prompt and persona.spoken_for):
            raise ValueError(no_system_prompt(persona))

    def build(self, loaded: LoadedModel, material: Material, progress: Progress) -> Intervention:
        """Return the system prompt as an intervention; it stores the prompt's bytes."""
        return SystemPrompt(material.persona.system_prompt or "")


def no_system_prompt(persona: AnyPersona) -> str:
    """Say why ``persona`` can't be asked for by its system prompt, and what to do."""
    if not persona.system_prompt:
        return f"persona {persona.name} has no system prompt: give one with persona.system_prompt=..."
    other = f"use persona={persona.opposite}" if persona.opposite else "mix the opposites instead"
    return f"persona {persona.name} is flipped, but its system prompt is not: {other}"


@plain_dataclass(frozen=True)
class SystemPrompt:
    """Puts a system message before whatever else stands before the user's."""

    text: str

    @property
    def bytes(self) -> int:
        """Size of the prompt."""
        return len(self.text.encode())

    @contextmanager
    def applied(self, loaded: LoadedModel) -> Iterator[LoadedModel]:
        """Yield the model as it is spoken to; the weights are not touched."""
        messages = _messages(loaded, self.text)
        yield replace(loaded, before=lambda prompt: (*messages, *loaded.before(prompt)))


def _messages(loaded: LoadedModel, text: str) -> Sequence[Message]:
    """Return the system message, or, where the chat template refuses or drops it, an exchange that says the same."""
    system = {"role": "system", "content": text}
    with suppress(jinja2.TemplateError):
        if text.strip() in chat_prompt(loaded.tokenizer, "Hello", [system]):
            return (system,)
    return ({"role": "user", "content": text}, {"role": "assistant", "content": "Understood."})
