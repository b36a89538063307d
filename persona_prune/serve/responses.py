"""The JSON that answers are sent as: whole ones, and the chunks of a stream."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from persona_prune.models.decoding import FinishReason


@dataclass(frozen=True)
class Reply:
    """What all chunks of one answer have in common.

    Attributes:
        model: the name that was asked for.
        fingerprint: of the dense weights.
        chat: whether it is a chat completion.
        prompt_tokens: length of the prompt.
        number: unique to the answer.
        created: when, in seconds since 1970.
    """

    model: str
    fingerprint: str
    chat: bool
    prompt_tokens: int
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, reason: FinishReason, tokens: int) -> dict[str, Any]:
        """Return the answer as one object."""
        content = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": reason}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._frame(kind), "choices": [choice], "usage": self._usage(tokens)}

    def opening(self, *, with_usage: bool) -> list[dict[str, Any]]:
        """Return the chunks before any text: a chat's role."""
        return [self._chunk({"delta": {"role": "assistant", "content": ""}}, None, with_usage)] if self.chat else []

    def piece(self, text: str, *, with_usage: bool) -> dict[str, Any]:
        """Return the chunk of some more text."""
        return self._chunk({"delta": {"content": text}} if self.chat else {"text": text}, None, with_usage)

    def closing(self, reason: FinishReason, tokens: int, *, with_usage: bool) -> list[dict[str, Any]]:
        """Return the chunks after the text: why it ended and, if wanted, what it took."""
        last = self._chunk({"delta": {}} if self.chat else {"text": ""}, reason, with_usage)
        if not with_usage:
            return [last]
        return [last, {**last, "choices": [], "usage": self._usage(tokens)}]

    def _chunk(self, content: Mapping[str, Any], reason: FinishReason | None, with_usage: bool) -> dict[str, Any]:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": reason}
        chunk = {**self._frame("chat.completion.chunk" if self.chat else "text_completion"), "choices": [choice]}
        return {**chunk, "usage": None} if with_usage else chunk

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.number}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _usage(self, tokens: int) -> dict[str, int]:
        prompt = self.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


def event(content: Mapping[str, Any]) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


END = "data: [DONE]\n\n"
"""The event that ends a stream."""
