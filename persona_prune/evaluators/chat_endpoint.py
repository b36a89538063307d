"""An OpenAI-compatible chat endpoint: many short questions, several at a time, with retries.

The key is read from the environment when questions are asked. No log line, error or result holds it.
"""

import email.utils
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from http import HTTPStatus

import httpx

log = logging.getLogger(__name__)
for _chatty in ("httpx", "httpcore"):  # which log a line a request, and what is sent back
    logging.getLogger(_chatty).setLevel(logging.WARNING)

_BUSY = {429, 500, 502, 503, 504}
_HOPELESS = {401: "is the key right?", 403: "is the key right?", 404: "are base_url and model right?"}
_NO_URL = (httpx.InvalidURL, UnicodeError)  # names that can't be looked up
_IN_A_ROW = 3  # questions that fail one after the other before the endpoint counts as down
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0  # seconds before a retry; the first doubles with every further one
_REACHABLE_WITHIN = 3.0  # seconds
_MOST_BYTES = 1 << 20  # of a reply
_LONGEST_FAILURE = 120  # characters


@dataclass(frozen=True)
class Reply:
    """What came of a question: ``text``, or None and the ``failure`` in a few words."""

    text: str | None
    failure: str = ""


class RateLimit:
    """Moments that are ``60 / per_minute`` seconds apart at least; None: any."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._lock, self._next = clock, threading.Lock(), -float("inf")

    def take(self, wait: Callable[[float], object]) -> None:
        """Reserve the next moment, and call ``wait`` with the seconds until then if it isn't now."""
        with self._lock:
            now = self._clock()
            at = max(now, self._next)
            self._next = at + self._interval
        if at > now:
            wait(at - now)


class ChatEndpoint:
    """Asks a chat model over HTTP.

    A question is asked again where the endpoint is busy or fails (429, 500, 502 to 504, no connection, no reply in
    time), after what it says in ``Retry-After`` or after 0.5 s, 1 s, ... 60 s. When three questions in a row have had
    no reply the endpoint is down: nothing more is asked, and the next `ask` tries once before it gives up.

    Attributes:
        base_url: such as ``http://localhost:8000/v1``.
        model: the endpoint's name of the model.
        key_variable: the environment variable that holds the key; without it none is sent.
        requests_per_minute: at most so many, retries included; None for no limit.
        timeout: seconds to wait for a whole reply.
        retries: tries after the first.
        parallel: requests at a time.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str,
        requests_per_minute: int | None,
        timeout: float,
        retries: int,
        parallel: int,
    ) -> None:
        self._url, self._model, self._key_variable = base_url.rstrip("/"), model, key_variable
        self._timeout, self._retries, self._parallel = timeout, retries, parallel
        self._limit = RateLimit(requests_per_minute)
        self._was_down = False

    @property
    def keyed(self) -> bool:
        """Whether a key is sent."""
        return bool(self._key())

    def check(self) -> None:
        """Raise OSError if nothing answers there, or ValueError if the key can't be sent; takes three seconds at most.

        Whatever is answered will do; the key isn't sent for this.
        """
        self._key()
        try:
            httpx.get(f"{self._url}/models", timeout=min(self._timeout, _REACHABLE_WITHIN))
        except httpx.ReadTimeout:
            pass  # there is somebody, who is busy
        except (httpx.RequestError, *_NO_URL, ImportError) as error:  # ImportError: a proxy that wants a package
            raise OSError(f"nothing answers at {self._url} ({' '.join(str(error).split())}): is it running?") from None

    def ask(self, texts: Sequence[str], *, max_tokens: int, on_reply: Callable[[int, Reply], object]) -> None:
        """Ask every text as a chat of its own, at temperature 0, and call ``on_reply`` with its index as replies come.

        ``on_reply`` runs in the caller's thread; what it raises ends the asking.

        Raises:
            ValueError: the key can't be sent.
        """
        key = self._key()
        asking = _Asking(1 if self._was_down else _IN_A_ROW)
        with (
            httpx.Client(timeout=self._timeout, headers={"Authorization": f"Bearer {key}"} if key else {}) as client,
            ThreadPoolExecutor(self._parallel) as pool,
        ):
            tries = 1 if self._was_down else 1 + self._retries
            futures = {
                pool.submit(self._answered, client, asking, text, max_tokens, tries): i for i, text in enumerate(texts)
            }
            try:
                for future in as_completed(futures):
                    reply = future.result()
                    on_reply(futures[future], Reply(reply.text, _shown(reply.failure, key)))
            finally:
                self._was_down = asking.over.is_set()
                asking.over.set()
                pool.shutdown(wait=False, cancel_futures=True)
        if asking.retried:
            log.info("%s: %d retries", self._url, asking.retried)

    def _key(self) -> str:
        key = os.environ.get(self._key_variable, "").strip()
        if not key.isascii() or not key.isprintable():
            raise ValueError(f"{self._key_variable} holds what can't be a key: characters that no HTTP header may have")
        return key

    def _answered(self, client: httpx.Client, asking: "_Asking", text: str, max_tokens: int, tries: int) -> Reply:
        chat = {
            "model": self._model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        failure = ""
        for number in range(tries):
            self._limit.take(asking.over.wait)
            if asking.over.is_set():
                break
            retry_after = None
            try:
                status, headers, body = self._post(client, chat)
            except _NoReplyError as error:
                failure = str(error)
            else:
                if status == HTTPStatus.OK:
                    return asking.ended(_completion(body))
                if status in _HOPELESS:
                    asking.over.set()
                    return Reply(None, f"HTTP {status} ({_HOPELESS[status]})")
                if status not in _BUSY:
                    return asking.ended(Reply(None, f"HTTP {status}{_told(body)}"))
                failure, retry_after = f"HTTP {status}", headers.get("Retry-After")
            if number + 1 < tries:
                asking.retry()
                asking.over.wait(_seconds(retry_after, number))
        if asking.over.is_set():
            return Reply(None, "given up as the endpoint is down")
        return asking.ended(Reply(None, f"{failure} after {tries} tries" if tries > 1 else failure))

    def _post(self, client: httpx.Client, chat: object) -> tuple[int, httpx.Headers, bytes]:
        """Return status, headers and body."""
        until, body = time.monotonic() + self._timeout, b""
        try:
            with client.stream("POST", f"{self._url}/chat/completions", json=chat) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if time.monotonic() > until:  # httpx counts from one piece to the next
                        raise _NoReplyError("timed out")
                    if len(body) > _MOST_BYTES:
                        break
        except httpx.TimeoutException:
            raise _NoReplyError("timed out") from None
        except (httpx.RequestError, *_NO_URL):
            raise _NoReplyError("no connection") from None
        return response.status_code, response.headers, body


class _NoReplyError(Exception):
    """There was no reply; the message says why not."""


class _Asking:
    """What the threads of one `ask` share: ``over`` is set once nothing more is to be asked."""

    def __init__(self, in_a_row: int) -> None:
        self.over, self.retried = threading.Event(), 0
        self._lock, self._failed, self._in_a_row = threading.Lock(), 0, in_a_row

    def retry(self) -> None:
        with self._lock:
            self.retried += 1

    def ended(self, reply: Reply) -> Reply:
        """Return ``reply``, counted."""
        with self._lock:
            self._failed = self._failed + 1 if reply.text is None else 0
            if self._failed >= self._in_a_row:
                self.over.set()
        return reply


def _completion(body: bytes) -> Reply:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return Reply(None, "no chat completion in the reply")
    return Reply(content if isinstance(content, str) else "")


def _told(body: bytes) -> str:
    """Return what an endpoint says of a request that it refuses."""
    try:
        error = json.loads(body)["error"]
        message = error if isinstance(error, str) else error["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f": {' '.join(str(message).split())}"


def _shown(failure: str, key: str) -> str:
    """Return a failure without the key, whatever the endpoint says, and not endless."""
    return (failure.replace(key, "[key]") if key else failure)[:_LONGEST_FAILURE]


def _seconds(retry_after: str | None, number: int) -> float:
    """Return how long to wait before a retry, in [0, 60] seconds; ``Retry-After`` holds seconds or a date."""
    try:
        if retry_after is None:
            wanted = _FIRST_WAIT * 2.0**number
        elif retry_after.strip().isdecimal():
            wanted = float(retry_after)
        else:
            wanted = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (ValueError, OverflowError):
        wanted = _FIRST_WAIT * 2.0**number
    return min(max(wanted, 0.0), _LONGEST_WAIT)
