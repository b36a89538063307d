"""One request on its way: from the scheduler's thread to the client, and back if the client goes away."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from persona_prune.models.decoding import Query
from persona_prune.serve.errors import ApiError, closing_error, internal_error
from persona_prune.serve.jobs import (
    ClosingError,
    Event,
    Failed,
    FailureReason,
    Finished,
    Job,
    Persona,
    Piece,
    QueueFullError,
)
from persona_prune.serve.responses import END, Reply, event
from persona_prune.serve.scheduler import Scheduler
from persona_prune.serve.schema import StreamOptions

_RETRY_AFTER = "2"  # seconds; how long a full queue takes depends on answers whose length nobody knows
_CLIENT_GONE = 499


async def answer(
    scheduler: Scheduler, request: Request, persona: Persona, query: Query, reply: Reply, stream: StreamOptions | None
) -> Response:
    """Answer a query, whole, or as server-sent events if there are options for that.

    Raises:
        ApiError: 429: the queue is full; 503: the server is shutting down; 500: the model failed. Of a stream only
            what happens before its first text has such a status; what happens later is an event in the stream.
    """
    following = _Following(scheduler, request, persona, query)
    try:
        first = await following.next()
        if first is None:
            return Response(status_code=_CLIENT_GONE)
        if isinstance(first, Failed):
            raise _error(first.reason)
        if stream is None:
            return await _whole(following, first, reply)
    except BaseException:
        following.end()
        raise
    return StreamingResponse(
        _chunks(following, first, reply, with_usage=bool(stream.include_usage)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


class _Following:
    """The events of one job, ``None`` last if its client goes away; that also cancels the job."""

    def __init__(self, scheduler: Scheduler, request: Request, persona: Persona, query: Query) -> None:
        self._scheduler, self._request = scheduler, request
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._job = Job(persona, query, self._send)
        try:
            scheduler.submit(self._job)
        except QueueFullError:
            raise ApiError(
                429,
                "too many requests wait: try again later",
                code="queue_full",
                headers={"Retry-After": _RETRY_AFTER},
            ) from None
        except ClosingError:
            raise closing_error() from None
        self._watch = asyncio.create_task(self._until_gone())

    async def next(self) -> Event | None:
        """Return the next event."""
        return await self._events.get()

    def end(self) -> None:
        """Follow no further."""
        self._watch.cancel()
        self._scheduler.cancel(self._job)

    async def _until_gone(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._scheduler.cancel(self._job)
        self._events.put_nowait(None)

    def _send(self, event: Event) -> None:
        """Pass an event on from the scheduler's thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._job.cancelled = True


async def _whole(following: _Following, first: Event, reply: Reply) -> Response:
    text = ""
    happened: Event | None = first
    while isinstance(happened, Piece):
        text += happened.text
        happened = await following.next()
    following.end()
    if isinstance(happened, Finished):
        return JSONResponse(reply.whole(text, happened.reason, happened.tokens))
    if isinstance(happened, Failed):
        raise _error(happened.reason)
    return Response(status_code=_CLIENT_GONE)


async def _chunks(following: _Following, first: Event, reply: Reply, *, with_usage: bool) -> AsyncIterator[str]:
    try:
        for chunk in reply.opening(with_usage=with_usage):
            yield event(chunk)
        happened: Event | None = first
        while isinstance(happened, Piece):
            yield event(reply.piece(happened.text, with_usage=with_usage))
            happened = await following.next()
        if isinstance(happened, Finished):
            for chunk in reply.closing(happened.reason, happened.tokens, with_usage=with_usage):
                yield event(chunk)
            yield END
        elif isinstance(happened, Failed):
            yield event(_error(happened.reason).body())
    finally:
        following.end()


def _error(reason: FailureReason) -> ApiError:
    return closing_error() if reason == "closing" else internal_error()
