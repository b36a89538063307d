"""From a request to the tokens the model is given, and what is refused on the way."""

import secrets
from dataclasses import dataclass

from jinja2 import TemplateError

from persona_prune.models.chat_text import render_chat
from persona_prune.models.control_tokens import refuse_control_tokens
from persona_prune.models.decoding import Query
from persona_prune.models.loaded import LoadedModel
from persona_prune.serve.errors import ApiError
from persona_prune.serve.schema import ChatRequest, CompletionRequest


@dataclass(frozen=True)
class PromptReader:
    """Turns requests into queries.

    Attributes:
        loaded: whose tokenizer and chat template are used.
        max_prompt_tokens: longest prompt.
        max_new_tokens: longest answer, and the default where a request names no limit.
    """

    loaded: LoadedModel
    max_prompt_tokens: int
    max_new_tokens: int

    def query(self, request: ChatRequest | CompletionRequest) -> Query:
        """Return what the model is asked.

        Raises:
            ApiError: 400: prompt or answer too long, the chat template refuses the messages, or one of them holds a
                control token.
        """
        if request.limit is not None and request.limit > self.max_new_tokens:
            raise ApiError(
                400,
                f"the answer may have at most {self.max_new_tokens} tokens here, got {request.limit}",
                param="max_tokens",
                code="invalid_value",
            )
        prompt = self._chat(request) if isinstance(request, ChatRequest) else self._completion(request)
        context = getattr(self.loaded.model.config, "max_position_embeddings", None)
        longest = min(self.max_prompt_tokens, context - 1) if context else self.max_prompt_tokens
        if len(prompt) > longest:
            raise ApiError(
                400,
                f"the prompt has {len(prompt)} tokens, at most {longest} are allowed: shorten it",
                param="messages" if isinstance(request, ChatRequest) else "prompt",
                code="context_length_exceeded",
            )
        room = context - len(prompt) if context else self.max_new_tokens
        return Query(
            prompt=prompt,
            max_new_tokens=min(request.limit or self.max_new_tokens, room),
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=secrets.randbits(63) if request.seed is None else request.seed,
            stop=request.stops,
        )

    def _chat(self, request: ChatRequest) -> tuple[int, ...]:
        tokenizer = self.loaded.tokenizer
        messages = [message.rendered for message in request.messages]
        for number, message in enumerate(messages):
            try:
                refuse_control_tokens(tokenizer, message["content"], f"message {number}")
            except ValueError as error:
                where = f"messages.{number}.content"
                raise ApiError(400, str(error), param=where, code="invalid_value") from None
        try:
            text = render_chat(tokenizer, messages)
        except TemplateError as error:
            raise ApiError(
                400, f"the model's chat template refuses these messages: {error}", param="messages"
            ) from None
        return tuple(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _completion(self, request: CompletionRequest) -> tuple[int, ...]:
        ids = tuple(self.loaded.tokenizer(request.text, verbose=False).input_ids)
        if not ids:
            raise ApiError(400, "the prompt is empty", param="prompt", code="invalid_value")
        return ids
