"""What the tests of the server share: a model, two personas, and a client that writes down what it is told."""

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import uvicorn

from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.masks.switching import PersonaSwitcher
from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.decoding import Query
from persona_prune.models.generation import greedy_answers
from persona_prune.models.loaded import LoadedModel, maskable_linears
from persona_prune.serve.api import Service, create_app
from persona_prune.serve.jobs import Event, Failed, Finished, Job, Limits, Piece
from persona_prune.serve.prompts import PromptReader
from persona_prune.serve.scheduler import Scheduler

PROMPTS = ["What now?", "Any plans for the long weekend that is coming, or none at all?", "Tell me a story.", "Work?"]
LIMITS = Limits(batch=4, batch_tokens=4096, queue=64, turn_seconds=0.05)


def personas_for(loaded: LoadedModel) -> dict[str, Mask]:
    """Two personas that drop a random third of the weights each."""
    linears = maskable_linears(loaded.model)
    masks = {}
    for seed, name in enumerate(("extrovert", "introvert")):
        generator = torch.Generator().manual_seed(seed)
        bits = {n: pack_bits(torch.rand(m.weight.shape, generator=generator) > 0.3) for n, m in linears.items()}
        masks[name] = Mask(bits, {n: tuple(m.weight.shape) for n, m in linears.items()}, loaded.fingerprint, {})
    return masks


def tokens_of(loaded: LoadedModel, prompt: str) -> tuple[int, ...]:
    text = chat_prompt(loaded.tokenizer, prompt)
    return tuple(loaded.tokenizer(text, add_special_tokens=False).input_ids)


def query(
    loaded: LoadedModel,
    prompt: str,
    *,
    tokens: int = 8,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> Query:
    return Query(tokens_of(loaded, prompt), tokens, temperature, top_p, seed, tuple(stop))


def alone(loaded: LoadedModel, mask: Mask | None, prompt: str, tokens: int = 8) -> str:
    """The greedy answer by another way: `masked`, transformers' own `generate`, one prompt at a time."""
    if mask is None:
        answers = greedy_answers(loaded, [tokens_of(loaded, prompt)], max_new_tokens=tokens, batch_size=1)
    else:
        with masked(loaded.model, mask, model_fingerprint=loaded.fingerprint):
            answers = greedy_answers(loaded, [tokens_of(loaded, prompt)], max_new_tokens=tokens, batch_size=1)
    return str(loaded.tokenizer.decode(answers[0], skip_special_tokens=True))


class Client:
    """Submits a job and gathers its events."""

    def __init__(self, persona: str | None, asked: Query) -> None:
        self.job = Job(persona, asked, self._on_event)
        self.text, self.pieces = "", 0
        self.end: Finished | Failed | None = None
        self.begun, self.ended = threading.Event(), threading.Event()

    def _on_event(self, event: Event) -> None:
        assert self.end is None, "an event after the end"
        if isinstance(event, Piece):
            self.text += event.text
            self.pieces += 1
            self.begun.set()
        else:
            self.end = event
            self.ended.set()

    def wait(self) -> "Client":
        assert self.ended.wait(60), "no answer within a minute"
        return self


def scheduler_for(loaded: LoadedModel, limits: Limits = LIMITS, personas: dict[str, Mask] | None = None) -> Scheduler:
    return Scheduler(loaded, PersonaSwitcher(loaded, personas or personas_for(loaded)), limits)


def service_for(loaded: LoadedModel, scheduler: Scheduler, **changes: object) -> Service:
    reader = PromptReader(loaded, max_prompt_tokens=200, max_new_tokens=64)
    service = Service(
        name="tiny-random",
        fingerprint=loaded.fingerprint,
        personas=["extrovert", "introvert"],
        reader=reader,
        scheduler=scheduler,
        api_key=None,
        local_only=True,
        max_body_bytes=20_000,
    )
    return dataclasses.replace(service, **changes)


@contextmanager
def running(service: Service, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve on a free port, in a thread, and yield the address."""
    server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="critical"))
    with socket.create_server((host, 0)) as bound:
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://{host}:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
