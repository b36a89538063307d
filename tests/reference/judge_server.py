"""A chat endpoint on localhost that rates replies as it is told to: right, wrong, late, busy, broken, or nonsense."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LATE = 1.5  # seconds
KIND = {"party", "friends", "crowd"}  # words of the trait whose description speaks of company


class Server(ThreadingHTTPServer):
    """Answers ``POST /v1/chat/completions``; what it does is in ``behaviours``.

    Attributes:
        behaviours: what it does when it is asked the same text for the first time, the second, ...; the last goes on.
            ``right`` and ``wrong`` rate; ``late`` is right after ``LATE`` seconds and ``trickle`` as late, byte by
            byte; ``429:2`` is busy for 2 s, ``429`` doesn't say for how long; other numbers are statuses; ``words``
            and ``850`` in quotes are replies; ``empty``, ``null``, ``html``, ``no choices`` and ``hang up`` are what
            they say; ``echo`` is a status 400 that repeats the key.
        asked: the chats, as sent. ``headers``: theirs.
        at_once: the most requests that were open together.
    """

    daemon_threads = True

    def __init__(self, behaviours: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviours = list(behaviours)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.looked: list[dict[str, str]] = []
        self.at_once = 0
        self._open = 0
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def texts(self) -> list[str]:
        return [chat["messages"][0]["content"] for chat in self.asked]

    def begin(self, chat: dict[str, Any], headers: dict[str, str]) -> str:
        text = chat["messages"][0]["content"]
        with self._lock:
            self.asked.append(chat)
            self.headers.append(headers)
            self._open += 1
            self.at_once = max(self.at_once, self._open)
            self._times[text] += 1
            return self.behaviours[min(self._times[text], len(self.behaviours)) - 1]

    def end(self) -> None:
        with self._lock:
            self._open -= 1


@contextmanager
def judge_server(*behaviours: str) -> Iterator[Server]:
    server = Server(behaviours or ["right"])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def right(text: str) -> int:
    """Rate as a person would who knows three words: 90 and 10 for the traits, 95 and 5 for sense."""
    reply = re.search(r"<reply>\n(.*?)\n</reply>", text, re.DOTALL)[1]
    if "Trait A" not in text:
        return 5 if len(set(reply.split())) < 3 else 95
    said = bool(KIND & set(re.findall(r"\w+", reply.lower())))
    a_is_kind = "company" in re.search("Trait A: (.*)", text)[1]
    return 90 if said == a_is_kind else 10


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.looked.append(dict(self.headers))
        self._send(json.dumps({"data": []}).encode(), 200 if "busy" not in self.server.behaviours else 503)

    def do_POST(self) -> None:
        chat = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        behaviour = self.server.begin(chat, dict(self.headers))
        try:
            self._answer(behaviour, chat["messages"][0]["content"])
        except (BrokenPipeError, ConnectionResetError):
            pass  # nobody waits any more
        finally:
            self.server.end()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, behaviour: str, text: str) -> None:
        if behaviour == "late":
            time.sleep(LATE)
        status, _, wait = behaviour.partition(":")
        if status.isdecimal():
            self._send(b'{"error": {"message": "as asked for"}}', int(status), {"Retry-After": wait} if wait else {})
        elif behaviour == "echo":
            message = f"what is {self.headers['Authorization']}?"
            self._send(json.dumps({"error": {"message": message}}).encode(), 400)
        elif behaviour == "html":
            self._send(b"<html><body>87 people are reading this</body></html>")
        elif behaviour == "no choices":
            self._send(b'{"choices": []}')
        elif behaviour == "hang up":
            self.connection.close()
        else:
            score = right(text)
            said = {
                "wrong": str(100 - score),
                "words": "It is hard to say.",
                "chatty": f"On a scale from 0 to 100, I'd say **{score}/100**.",
                "empty": "",
                "null": None,
            }.get(behaviour, str(score))
            content = behaviour[1:-1] if behaviour.startswith("'") else said
            body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
            self._send(body, slowly=behaviour == "trickle")

    def _send(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None, slowly: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for i in range(0, len(body), 1 if slowly else len(body)):
            self.wfile.write(body[i : i + 1] if slowly else body)
            if slowly:
                time.sleep(LATE / len(body))
