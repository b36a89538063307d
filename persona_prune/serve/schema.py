"""What clients may ask: OpenAI's chat completions and completions, as far as one local model can do them."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from persona_prune.common.validation import neighbours
from persona_prune.serve.errors import ApiError

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

# Parameters that would change the answer, with the values at which they don't.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
}
# Parameters that say nothing about the answer.
_IGNORED = frozenset(
    ("metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user")
)


def _plain(text: str) -> str:
    found = _CONTROL.search(text)
    if found:
        raise ValueError(f"holds the control character {found[0]!r}: only tabs and line ends are allowed")
    return text


Text = Annotated[str, AfterValidator(_plain)]
"""Text without control characters and without halves of surrogate pairs."""

Stop = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]


def _empty(value: Any) -> Any:
    if value not in (None, "", [], {}):
        raise ValueError("is not supported here: leave it out, empty or null")
    return value


Empty = Annotated[Any, AfterValidator(_empty)]
"""A field of a message that other servers fill, which clients send back with what it is at without them."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class TextPart(_Strict):
    """One part of a message; text is all there is."""

    type: Literal["text"]
    text: Text


Content = Text | Annotated[list[TextPart], Field(min_length=1)]


class ChatMessage(_Strict):
    """One message of a conversation; ``developer`` is another name for ``system``.

    An answer comes back as the client's own library keeps it, with all that it might have held: only of an assistant
    is ``content`` None, which is nothing said.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Content | None, Field(validate_default=True)] = None
    name: str | None = None
    refusal: Empty = None
    annotations: Empty = None
    audio: Empty = None
    function_call: Empty = None
    tool_calls: Empty = None
    reasoning: Empty = None
    reasoning_content: Empty = None

    @field_validator("content")
    @classmethod
    def _said(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and "role" in info.data and info.data["role"] != "assistant":
            raise PydanticCustomError("string_type", "Input should be a valid string")
        return content

    @property
    def rendered(self) -> dict[str, str]:
        """Role and text, as chat templates take them."""
        said = self.content or ""
        text = said if isinstance(said, str) else "".join(part.text for part in said)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Strict):
    """What a stream holds besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(BaseModel):
    """What both kinds of request have in common; the defaults are those of OpenAI's API."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    @property
    def limit(self) -> int | None:
        """How many tokens the answer may have, if the request says so."""
        return self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(GenerationRequest):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def limit(self) -> int | None:
        """``max_completion_tokens``, or its former name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(GenerationRequest):
    """The body of ``POST /v1/completions``."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]

    @property
    def text(self) -> str:
        """The one prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


Requested = TypeVar("Requested", bound=GenerationRequest)


def parse(kind: type[Requested], body: bytes) -> Requested:
    """Return the request in ``body``.

    Raises:
        ApiError: 400, naming the parameter: the JSON is malformed or too deep, a value is of the wrong type or out of
            range, or a parameter is unknown or cannot be honoured here.
    """
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None
    for name, value in (request.model_extra or {}).items():
        if name in _NEUTRAL:
            if value is not None and not any(value == neutral for neutral in _NEUTRAL[name]):
                allowed = " or ".join(repr(neutral) for neutral in _NEUTRAL[name]) or "null"
                raise ApiError(
                    400,
                    f"{name} is not supported here: leave it out or at {allowed}",
                    param=name,
                    code="unsupported_value",
                )
        elif name not in _IGNORED:
            near = neighbours(name, {*kind.model_fields, *_NEUTRAL})
            hint = f"; {near}" if near.startswith("did you mean") else ""
            raise ApiError(400, f"unknown parameter {_shown(name)}{hint}", param=name[:80], code="unknown_parameter")
    return request


def _refusal(error: ValidationError) -> ApiError:
    # Of a union every member complains; the one that got furthest knows most.
    problems = error.errors(include_url=False, include_context=False)
    problem = max(problems, key=lambda problem: (len(problem["loc"]), not problem["type"].endswith("_type")))
    if problem["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {problem['msg'].removeprefix('Invalid JSON: ')}")
    names = [part for part in problem["loc"] if isinstance(part, int) or re.fullmatch("[a-z_]+", part)]
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    got = problem["input"]
    shown = f", got {_shown(got)}" if isinstance(got, str | int | float | bool | None) and names else ""
    if problem["type"] == "missing":
        message, shown = "is missing", ""
    where = ".".join(str(name) for name in names if name not in ("str", "list"))
    return ApiError(400, f"{where or 'the body'}: {message}{shown}", param=where or None, code="invalid_value")


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
