"""Who answers, what each of them was told so far, and how an answer is made."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jinja2.exceptions import TemplateError

from persona_prune.masks.switching import PersonaSwitcher
from persona_prune.models.chat_text import render_chat
from persona_prune.models.control_tokens import refuse_control_tokens, without_control_tokens
from persona_prune.models.decoding import Completion, DecodingBatch, Query
from persona_prune.models.loaded import LoadedModel

Shares = Mapping[str, float]
"""Persona -> share of a mix; one persona has all of it, and the dense model is empty."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token; above, logits are divided by it.
        top_p: in (0, 1]; draw among the likeliest tokens that together have this probability.
        seed: of every answer, so that all arms draw the same random numbers.
        max_new_tokens: length of an answer at most.
    """

    temperature: float
    top_p: float
    seed: int
    max_new_tokens: int


@dataclass
class Arm:
    """One who answers, and the messages it has seen and said."""

    label: str
    shares: Shares
    messages: list[dict[str, str]] = field(default_factory=list)


class Conversation:
    """The same prompts to one or several arms; each keeps a history of its own."""

    def __init__(self, loaded: LoadedModel, switcher: PersonaSwitcher, decoding: Decoding) -> None:
        self._loaded, self._switcher, self._decoding = loaded, switcher, decoding
        self._arms = {"dense": Arm("dense", {})}
        self._arms |= {name: Arm(name, {name: 1.0}) for name in switcher.names}
        self._system: str | None = None
        self.gamma: float | None = None
        self.speaking = self.all_arms()

    def all_arms(self) -> list[Arm]:
        """Return the dense model and every persona."""
        return [self._arms[name] for name in ("dense", *self._switcher.names)]

    def arm(self, shares: Shares) -> Arm:
        """Return the arm of these shares, with what it said before.

        Raises:
            ValueError: there is no such persona, or a share is not above 0.
        """
        label = self._switcher.label(shares)
        return self._arms.setdefault(label, Arm(label, dict(shares)))

    def reset(self) -> None:
        """Forget what was said."""
        for arm in self._arms.values():
            arm.messages.clear()

    def set_system(self, text: str | None) -> None:
        """Put a system message before every conversation from now on; None for none of our own.

        Raises:
            ValueError: it holds a control token.
        """
        if text is not None:
            refuse_control_tokens(self._loaded.tokenizer, text, "the system message")
        self._system = text

    def answer(self, arm: Arm, prompt: str, say: Callable[[str], object]) -> str:
        """Answer as ``arm`` and remember it, as far as it came if ``say`` or the user interrupts.

        Args:
            arm: who answers.
            prompt: the user's message.
            say: called with every piece of text as it is generated.

        Raises:
            KeyboardInterrupt: the user stopped the answer; what was said so far is remembered.
            ValueError: the conversation does not fit the model, its template has no place for a system message, or the
                prompt holds a control token.
        """
        refuse_control_tokens(self._loaded.tokenizer, prompt, "the message")
        ids = self._ids([*arm.messages, {"role": "user", "content": prompt}])
        said: list[str] = []

        def heard(text: str) -> None:
            said.append(text)
            say(text)

        try:
            with self._switcher.using(arm.shares, gamma=self.gamma):
                self._generate(ids, heard)
        finally:
            # What the model spelled letter by letter would end its message, once it is a part of the conversation.
            text = without_control_tokens(self._loaded.tokenizer, "".join(said)).strip()
            if text:
                arm.messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        return text

    def _ids(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        system = [{"role": "system", "content": self._system}] if self._system else []
        try:
            text = render_chat(self._loaded.tokenizer, [*system, *messages])
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses this conversation: {error}") from None
        ids = self._loaded.tokenizer(text, add_special_tokens=False).input_ids
        room = getattr(self._loaded.model.config, "max_position_embeddings", None)
        if room is not None and len(ids) + self._decoding.max_new_tokens > room:
            raise ValueError(
                f"{len(ids)} tokens of conversation and {self._decoding.max_new_tokens} for the answer are more than "
                f"the {room} the model takes: /reset, or give a smaller max_new_tokens"
            )
        return tuple(ids)

    def _generate(self, ids: tuple[int, ...], heard: Callable[[str], None]) -> None:
        decoding = self._decoding
        query = Query(ids, decoding.max_new_tokens, decoding.temperature, decoding.top_p, decoding.seed, ())
        batch = DecodingBatch(self._loaded, [Completion(query, self._loaded)])
        while batch.answers:
            for _, piece in batch.step():
                if piece:
                    heard(piece)


def shares_of(text: str) -> Shares:
    """Read ``a=0.7 b=0.3``; raise ValueError if it is anything else."""
    shares: dict[str, float] = {}
    for part in text.split():
        match = re.fullmatch(r"(\S+)=(\d*\.?\d+)", part)
        if match is None or float(match[2]) <= 0:
            raise ValueError(f"{part}: expected NAME=SHARE with a share above 0, as in /mix a=0.7 b=0.3")
        shares[match[1]] = float(match[2])
    if not shares:
        raise ValueError("say what to mix, as in /mix a=0.7 b=0.3")
    return shares
