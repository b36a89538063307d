"""What goes into the scheduler and what comes out of it."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from persona_prune.models.decoding import FinishReason, Query

Persona = str | None
"""A persona's name; None for the dense model."""


class Switcher(Protocol):
    """What puts personas on the model: `switching.PersonaSwitcher`."""

    @property
    def switches(self) -> int:
        """How often the weights were changed."""

    @property
    def seconds(self) -> float:
        """How long that took in all."""

    def switch(self, name: str | None) -> None:
        """Make the model this persona, or dense again."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Restore the weights."""


FailureReason = Literal["internal", "closing"]
"""Why a request failed: an error of ours, or the server is shutting down."""


class QueueFullError(Exception):
    """As many requests wait as may."""


class ClosingError(Exception):
    """The scheduler takes no more requests."""


@dataclass(frozen=True)
class Piece:
    """More text of an answer, not empty."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end of an answer and its length in tokens."""

    reason: FinishReason
    tokens: int


@dataclass(frozen=True)
class Failed:
    """The end of a request that wasn't answered, or not to its end."""

    reason: FailureReason


Event = Piece | Finished | Failed


@dataclass(eq=False)
class Job:
    """A query for one persona, and who is to hear of its answer.

    Attributes:
        persona: who answers.
        query: what.
        on_event: called by threads of the scheduler; must return at once.
        cancelled: nobody waits for the answer any more (`Scheduler.cancel`).
        ended: the last event was sent.
    """

    persona: Persona
    query: Query
    on_event: Callable[[Event], object]
    cancelled: bool = False
    ended: bool = False


@dataclass
class Counts:
    """What happened since the start."""

    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Limits:
    """How much is done at once.

    Attributes:
        batch: answers that grow together at most.
        batch_tokens: prompt tokens, padding included, that are read together at most (one prompt always is).
        queue: requests that may wait.
        turn_seconds: how long a persona keeps the model while others wait; longer where switching takes long.
    """

    batch: int
    batch_tokens: int
    queue: int
    turn_seconds: float
