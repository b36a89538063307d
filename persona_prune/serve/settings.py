"""What a server is told on its command line."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from persona_prune.common.validation import STRICT, Name, PositiveInt


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ServerSettings:
    """The keys of ``conf/serve.yaml``, which says what they mean."""

    model: str | None
    dtype: str | None
    device: str | None
    personas: Annotated[dict[Name, str], Field(min_length=1)]
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=0, le=65535)]
    api_key: Annotated[str, Field(min_length=1)] | None
    max_prompt_tokens: PositiveInt
    max_new_tokens: PositiveInt
    max_body_bytes: PositiveInt
    batch: PositiveInt
    batch_tokens: PositiveInt
    queue: PositiveInt
    turn_seconds: Annotated[float, Field(gt=0)]
    shutdown_seconds: Annotated[float, Field(ge=0)]
