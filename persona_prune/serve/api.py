"""The HTTP side: OpenAI's paths, the page, and what is refused before the scheduler sees it."""

import asyncio
import hmac
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.requests import ClientDisconnect

from persona_prune.common.validation import neighbours
from persona_prune.serve.answering import answer
from persona_prune.serve.errors import ApiError, handle_errors
from persona_prune.serve.jobs import Persona
from persona_prune.serve.prompts import PromptReader
from persona_prune.serve.responses import Reply
from persona_prune.serve.scheduler import Scheduler
from persona_prune.serve.schema import ChatRequest, CompletionRequest, StreamOptions, parse

_BODY_SECONDS = 30.0
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_READ = ["GET", "HEAD"]  # health checks and load balancers ask without wanting the body
_LOCAL_HOSTS = frozenset(("localhost", "127.0.0.1", "[::1]"))


@dataclass(frozen=True)
class Service:
    """What is served.

    Attributes:
        name: of the dense model, as clients ask for it; a persona is ``<name>:<persona>``.
        fingerprint: of the dense weights.
        personas: their names.
        reader: turns requests into queries.
        scheduler: answers them.
        api_key: what clients must send, or None.
        local_only: whether only requests addressed to this machine by a local name are answered, so that a web page
            elsewhere can't reach the server through a name of its own.
        max_body_bytes: larger requests are refused.
    """

    name: str
    fingerprint: str
    personas: Sequence[str]
    reader: PromptReader
    scheduler: Scheduler
    api_key: str | None
    local_only: bool
    max_body_bytes: int

    @property
    def models(self) -> dict[str, Persona]:
        """Model name -> persona."""
        return {self.name: None} | {f"{self.name}:{persona}": persona for persona in self.personas}


def create_app(service: Service) -> FastAPI:
    """Return the application; the scheduler is started and closed by the caller."""
    app = FastAPI(title="persona_prune", openapi_url=None, docs_url=None, redoc_url=None)
    handle_errors(app)
    page = resources.files("persona_prune.serve").joinpath("page.html").read_text(encoding="utf-8")
    started = int(time.time())

    def check_host(request: Request) -> None:
        if not service.local_only:
            return
        host = re.sub(r":\d+$", "", request.headers.get("host", ""))
        # The address it was reached at is as good: what a web page elsewhere can choose is a name.
        address, _ = request.scope.get("server") or ("localhost", None)
        if host not in _LOCAL_HOSTS and host.strip("[]") != address:
            raise ApiError(403, "this server answers to localhost and its address only: set an api_key for other names")

    def check_key(request: Request) -> None:
        check_host(request)
        if service.api_key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.strip().encode("latin-1"), service.api_key.encode()
        ):
            problem = "wrong API key" if given else "this server wants an API key"
            raise ApiError(
                401,
                f"{problem}: send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    @app.api_route("/", methods=_READ, dependencies=[Depends(check_host)])
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    @app.api_route("/health", methods=_READ, dependencies=[Depends(check_host)])
    async def health() -> JSONResponse:
        closing = service.scheduler.closing
        return JSONResponse({"status": "closing" if closing else "ok"}, 503 if closing else 200)

    @app.api_route("/metrics", methods=_READ, dependencies=[Depends(check_key)])
    async def metrics() -> PlainTextResponse:
        figures = service.scheduler.figures().items()
        kinds = {name: "counter" if name.endswith("_total") else "gauge" for name, _ in figures}
        lines = [
            f"# TYPE persona_prune_{name} {kinds[name]}\npersona_prune_{name} {value}\n" for name, value in figures
        ]
        return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")

    @app.api_route("/v1/models", methods=_READ, dependencies=[Depends(check_key)])
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, started) for name in service.models]}

    @app.api_route("/v1/models/{name}", methods=_READ, dependencies=[Depends(check_key)])
    async def model(name: str) -> dict[str, Any]:
        _persona(service, name)
        return _model(name, started)

    async def complete(request: Request, asked: ChatRequest | CompletionRequest) -> Response:
        persona = _persona(service, asked.model)
        # Long prompts take a while to read, and other requests must not wait for that.
        query = await asyncio.to_thread(service.reader.query, asked)
        reply = Reply(asked.model, service.fingerprint, isinstance(asked, ChatRequest), len(query.prompt))
        stream = (asked.stream_options or StreamOptions()) if asked.stream else None
        return await answer(service.scheduler, request, persona, query, reply, stream)

    @app.post("/v1/chat/completions", dependencies=[Depends(check_key)])
    async def chat(request: Request) -> Response:
        return await complete(request, parse(ChatRequest, await _body(request, service.max_body_bytes)))

    @app.post("/v1/completions", dependencies=[Depends(check_key)])
    async def completions(request: Request) -> Response:
        return await complete(request, parse(CompletionRequest, await _body(request, service.max_body_bytes)))

    return app


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "persona_prune"}


def _persona(service: Service, name: str) -> Persona:
    if name not in service.models:
        shown = name if len(name) <= 80 else f"{name[:80]}..."
        message = f"no model {shown!r}; {neighbours(name[:200], service.models)}"
        raise ApiError(404, message, param="model", code="model_not_found")
    return service.models[name]


async def _body(request: Request, limit: int) -> bytes:
    """Return the body of a JSON request, which must arrive in time and be no longer than ``limit`` bytes."""
    # A web page elsewhere can send other types without asking; for this one the browser asks, and isn't allowed.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "send JSON, with 'Content-Type: application/json'")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise ApiError(413, f"the body is larger than {limit} bytes", headers={"Connection": "close"})
    except TimeoutError:
        raise ApiError(
            408, f"the body did not arrive within {_BODY_SECONDS:g} s", headers={"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise ApiError(400, "the body ended early") from None
    return bytes(body)
