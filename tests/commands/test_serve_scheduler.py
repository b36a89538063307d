import dataclasses
import threading
import time

import pytest
import torch
from transformers import DynamicCache

from persona_prune.masks.switching import PersonaSwitcher
from persona_prune.models.decoding import Completion, DecodingBatch
from persona_prune.models.loaded import LoadedModel, fingerprint
from persona_prune.serve.api import create_app
from persona_prune.serve.jobs import ClosingError, Failed, Finished, QueueFullError
from persona_prune.serve.scheduler import Scheduler
from persona_prune.serve.server import listening_socket, serve
from tests.conftest import tiny_model
from tests.serving_support import LIMITS, PROMPTS, Client, alone, personas_for, query, scheduler_for, service_for

WHO = ["extrovert", None, "introvert"]
PATIENT = dataclasses.replace(LIMITS, turn_seconds=60.0)
HASTY = dataclasses.replace(LIMITS, turn_seconds=1e-9)  # one token a turn


@pytest.fixture(scope="module")
def model(cache) -> LoadedModel:
    """A model of these tests' own, as a thread changes its weights."""
    return tiny_model()


@pytest.fixture
def started(model):
    """Start schedulers; afterwards close them and check that they left the weights as they were."""
    before = {name: parameter.clone() for name, parameter in model.model.named_parameters()}
    schedulers: list[Scheduler] = []

    def start(scheduler: Scheduler) -> Scheduler:
        schedulers.append(scheduler)
        scheduler.start()
        return scheduler

    yield start
    for scheduler in schedulers:
        scheduler.close(0)
        scheduler.join()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.model.named_parameters())
    assert fingerprint(model.model) == model.fingerprint


def recorded(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Write down the persona of every turn that changes the weights."""
    order: list[str | None] = []
    switch = scheduler._switcher.switch

    def record(name: str | None) -> None:
        before = scheduler._switcher.switches
        switch(name)
        order.extend([name] if scheduler._switcher.switches > before else [])

    monkeypatch.setattr(scheduler._switcher, "switch", record)
    return order


def submitted(scheduler: Scheduler, *clients: Client) -> None:
    for client in clients:
        scheduler.submit(client.job)


@pytest.mark.parametrize("limits", [PATIENT, HASTY], ids=["patient", "hasty"])
def test_every_answer_is_its_own_personas_whatever_is_answered_beside_it(model, started, limits, monkeypatch):
    monkeypatch.setattr("persona_prune.serve.scheduler._SWITCHES_PER_TURN", 0)
    masks = personas_for(model)
    asked = [(who, prompt) for prompt in PROMPTS for who in WHO]
    expected = [alone(model, masks[who] if who else None, prompt) for who, prompt in asked]
    assert len(set(expected)) == len(asked), "personas that answer alike would prove nothing"
    scheduler = started(scheduler_for(model, limits))
    clients = [Client(who, query(model, prompt)) for who, prompt in asked]
    submitted(scheduler, *clients)
    assert [client.wait().text for client in clients] == expected
    figures = scheduler.figures()
    assert (figures["requests_answered_total"], figures["requests_running"], figures["requests_waiting"]) == (12, 0, 0)
    assert figures["completion_tokens_total"] >= sum(client.end.tokens for client in clients)
    assert figures["prompt_tokens_total"] == sum(len(client.job.query.prompt) for client in clients)


def test_the_weights_change_only_where_they_must(model, started, monkeypatch):
    scheduler = scheduler_for(model, PATIENT)
    order = recorded(scheduler, monkeypatch)
    clients = [Client(who, query(model, prompt)) for prompt in PROMPTS for who in ("extrovert", "introvert")]
    submitted(scheduler, *clients)  # all wait before the first is answered
    started(scheduler)
    for client in clients:
        client.wait()
    assert order == ["extrovert", "introvert"]
    submitted(scheduler, late := Client("introvert", query(model, "Why?")))
    late.wait()
    assert order == ["extrovert", "introvert"]
    figures = scheduler.figures()
    assert figures["persona_switches_total"] == 2
    assert 0 < figures["persona_switch_seconds_total"] < 60


def test_personas_take_turns_and_none_waits_for_the_end_of_another(model, started, monkeypatch):
    monkeypatch.setattr("persona_prune.serve.scheduler._SWITCHES_PER_TURN", 0)
    scheduler = scheduler_for(model, HASTY)
    order = recorded(scheduler, monkeypatch)
    long = [
        Client(who, query(model, "Tell me a story.", tokens=40, stop=["never said"])) for who in ("extrovert", None)
    ]
    submitted(scheduler, *long)
    submitted(scheduler, short := Client("introvert", query(model, "Why?", tokens=3)))
    started(scheduler)
    short.wait()
    # The dense model is what the weights are at first: its first turn after the extrovert's is a switch, too.
    assert order[:6] == ["extrovert", None, "introvert"] * 2
    assert not any(client.ended.is_set() for client in long)
    assert all(client.wait().end.reason in ("stop", "length") for client in long)


def test_where_switching_takes_long_turns_are_longer(model, monkeypatch):
    scheduler = scheduler_for(model, dataclasses.replace(LIMITS, turn_seconds=1.0))
    assert scheduler._turn_seconds == 1.0
    monkeypatch.setattr(scheduler._switcher, "_switches", 3)
    monkeypatch.setattr(scheduler._switcher, "_seconds", 1.5)
    assert scheduler._turn_seconds == 2.0
    monkeypatch.setattr(scheduler._switcher, "_seconds", 0.3)
    assert scheduler._turn_seconds == 1.0


def test_what_comes_later_joins_the_persona_that_is_being_answered(model, started):
    scheduler = started(scheduler_for(model, PATIENT))
    submitted(scheduler, first := Client(None, query(model, "Tell me a story.", tokens=400)))
    assert first.begun.wait(60)
    submitted(scheduler, second := Client(None, query(model, "Why?", tokens=2)))
    second.wait()
    assert not first.ended.is_set()
    scheduler.cancel(first.job)


def test_a_cancelled_job_leaves_and_the_others_go_on(model, started):
    scheduler = started(scheduler_for(model, PATIENT))
    expected = alone(model_alone := tiny_model(), None, PROMPTS[1], 30)
    assert model_alone.fingerprint == model.fingerprint
    gone = Client(None, query(model, "Tell me a story.", tokens=4000))
    stays = Client(None, query(model, PROMPTS[1], tokens=30))
    submitted(scheduler, gone, stays)
    assert gone.begun.wait(60)
    scheduler.cancel(gone.job)
    scheduler.cancel(gone.job)
    assert stays.wait().text == expected
    assert gone.end is None
    scheduler.close(60)
    scheduler.join()
    figures = scheduler.figures()
    assert (figures["requests_cancelled_total"], figures["requests_answered_total"]) == (1, 1)
    assert figures["completion_tokens_total"] < 4000


def test_a_full_queue_is_refused_and_a_waiting_job_can_be_taken_back(model, started):
    scheduler = scheduler_for(model, dataclasses.replace(LIMITS, queue=2))
    waiting = [Client(who, query(model, "Why?")) for who in (None, "extrovert")]
    submitted(scheduler, *waiting)
    with pytest.raises(QueueFullError):
        scheduler.submit(Client(None, query(model, "Why?")).job)
    scheduler.cancel(waiting[0].job)
    submitted(scheduler, third := Client("extrovert", query(model, "Why not?")))
    started(scheduler)
    waiting[1].wait(), third.wait()
    assert waiting[0].end is None
    figures = scheduler.figures()
    assert (figures["requests_refused_total"], figures["requests_cancelled_total"]) == (1, 1)
    assert figures["persona_switches_total"] == 1, "nobody waited for the dense model any more"


def test_padding_is_bounded(model):
    scheduler = scheduler_for(model, dataclasses.replace(LIMITS, batch_tokens=100))
    clients = [Client(None, query(model, prompt)) for prompt in ("Why?", "Why?", "why " * 60, "Why?")]
    assert len(clients[2].job.query.prompt) * 2 > 100 > len(clients[0].job.query.prompt) * 2
    submitted(scheduler, *clients)
    assert [len(scheduler._admit(None, 4).answers) for _ in range(3)] == [2, 1, 1]
    assert scheduler._admit(None, 4) is None


def test_at_the_end_running_answers_finish_and_waiting_ones_are_told(model, started):
    scheduler = started(scheduler_for(model, dataclasses.replace(PATIENT, batch=1)))
    running = Client("extrovert", query(model, "Tell me a story.", tokens=60))
    waiting = Client("extrovert", query(model, "Why?"))
    submitted(scheduler, running, waiting)
    assert running.begun.wait(60)
    scheduler.close(60)
    assert waiting.wait().end == Failed("closing")
    assert isinstance(running.wait().end, Finished)
    with pytest.raises(ClosingError):
        scheduler.submit(Client(None, query(model, "Why?")).job)
    scheduler.join()
    assert fingerprint(model.model) == model.fingerprint


def test_the_end_does_not_wait_longer_than_it_may(model, started):
    scheduler = started(scheduler_for(model, HASTY))
    endless = [Client(who, query(model, "Tell me a story.", tokens=100_000)) for who in WHO]
    submitted(scheduler, *endless)
    assert all(client.begun.wait(60) for client in endless)
    began = time.monotonic()
    scheduler.close(0.2)
    scheduler.join()
    assert time.monotonic() - began < 20
    assert [client.end for client in endless] == [Failed("closing")] * 3


def test_the_end_does_not_wait_for_a_step_that_takes_long(model, started, monkeypatch):
    amid_a_step, go_on = threading.Event(), threading.Event()
    step = DecodingBatch.step

    def slow(batch: DecodingBatch) -> list[tuple[Completion, str]]:
        amid_a_step.set()
        go_on.wait(60)
        return step(batch)

    monkeypatch.setattr(DecodingBatch, "step", slow)
    scheduler = started(scheduler_for(model))
    submitted(scheduler, client := Client("extrovert", query(model, "Why?", tokens=1)))
    assert amid_a_step.wait(60)
    scheduler.close(0.05)
    assert client.wait().end == Failed("closing")
    assert not go_on.is_set()
    go_on.set()
    scheduler.join()
    figures = scheduler.figures()
    assert (figures["requests_failed_total"], figures["requests_answered_total"]) == (1, 0)


def test_a_request_the_model_cannot_do_fails_alone(model, started):
    scheduler = started(scheduler_for(model, PATIENT))
    bad = Client(None, dataclasses.replace(query(model, "Why?"), prompt=(10**6,)))
    submitted(scheduler, bad)
    assert bad.wait().end == Failed("internal")
    submitted(scheduler, good := Client("extrovert", query(model, "Why?")))
    assert isinstance(good.wait().end, Finished)


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_memory_that_runs_out_while_batches_are_joined_fails_these_answers_only(model, started, monkeypatch):
    scheduler = started(scheduler_for(model, PATIENT))
    submitted(scheduler, first := Client(None, query(model, "Tell me a story.", tokens=4000)))
    assert first.begun.wait(60)
    monkeypatch.setattr(DecodingBatch, "join", out_of_memory)
    submitted(scheduler, second := Client(None, query(model, "Why?", tokens=40)))
    assert [client.wait().end for client in (first, second)] == [Failed("internal")] * 2
    monkeypatch.undo()
    submitted(scheduler, good := Client("extrovert", query(model, "Why?")))
    assert isinstance(good.wait().end, Finished)
    assert scheduler.figures()["requests_running"] == 0


def test_memory_that_runs_out_for_a_new_batch_fails_its_answers_only(model, started, monkeypatch):
    scheduler = started(scheduler_for(model, PATIENT))
    with monkeypatch.context() as patch:
        patch.setattr(DecodingBatch, "__init__", out_of_memory)
        submitted(scheduler, bad := Client(None, query(model, "Why?")))
        assert bad.wait().end == Failed("internal")
    submitted(scheduler, good := Client(None, query(model, "Why?")))
    assert isinstance(good.wait().end, Finished)


def test_memory_that_runs_out_as_answers_leave_fails_those_that_end_then_too(model, started, monkeypatch):
    clients = [Client(None, query(model, prompt, tokens=tokens)) for prompt, tokens in (("Why?", 2), ("Work?", 50))]
    monkeypatch.setattr(DynamicCache, "batch_select_indices", out_of_memory)
    scheduler = scheduler_for(model, PATIENT)
    submitted(scheduler, *clients)
    started(scheduler)
    assert [client.wait().end for client in clients] == [Failed("internal")] * 2
    assert scheduler.figures()["requests_running"] == 0


def test_the_server_ends_where_nobody_can_be_answered_any_more(model, monkeypatch):
    scheduler = scheduler_for(model)
    monkeypatch.setattr(scheduler, "_turn", out_of_memory)
    submitted(scheduler, client := Client(None, query(model, "Why?")))
    bound = listening_socket("127.0.0.1", 0)
    app = create_app(service_for(model, scheduler))
    with bound, pytest.raises(RuntimeError, match="the scheduler ended: OutOfMemoryError: CUDA out of memory"):
        serve(app, scheduler, bound, shutdown_seconds=1.0, ready="ready")
    assert client.wait().end == Failed("closing")


def test_a_persona_that_cannot_be_put_on_fails_and_the_others_are_answered(model, started, monkeypatch):
    switcher = PersonaSwitcher(model, personas_for(model))
    switch = switcher.switch

    def broken(name: str | None) -> None:
        if name == "introvert":
            raise RuntimeError("out of memory")
        switch(name)

    monkeypatch.setattr(switcher, "switch", broken)
    scheduler = Scheduler(model, switcher, LIMITS)
    clients = [Client(who, query(model, "Why?")) for who in ("introvert", "extrovert", None)]
    submitted(scheduler, *clients)
    started(scheduler)
    ends = [client.wait().end for client in clients]
    assert ends[0] == Failed("internal")
    assert all(isinstance(end, Finished) for end in ends[1:])
