"""Conversations as clients keep and send them back: an answer comes with every field it might have had."""

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from tests.conftest import tiny_model
from tests.serving_support import personas_for, running, scheduler_for, service_for

EMPTY = ["refusal", "annotations", "audio", "function_call", "tool_calls", "reasoning", "reasoning_content"]


@pytest.fixture(scope="module")
def server(cache):
    model = tiny_model()
    scheduler = scheduler_for(model, personas=personas_for(model))
    scheduler.start()
    with running(service_for(model, scheduler)) as address:
        yield address
    scheduler.close(0)
    scheduler.join()


def ask(server: str, *history: dict[str, object]) -> httpx.Response:
    body = {"model": "tiny-random", "messages": [*history, {"role": "user", "content": "And you?"}], "max_tokens": 2}
    return httpx.post(f"{server}/v1/chat/completions", json=body | {"temperature": 0})


def answer_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_what_the_official_client_got_it_can_send_back(server):
    """NeMo-Agent-Toolkit 2068: `message.model_dump()` holds a null for every field of the API."""
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        history = [{"role": "user", "content": "What now?"}]
        settings = {"model": "tiny-random:extrovert", "max_tokens": 4, "temperature": 0}
        message = client.chat.completions.create(messages=history, **settings).choices[0].message
        again = []
        for dumped in (message.model_dump(), message.model_dump(exclude_none=True), message):
            asked = [*history, dumped, {"role": "user", "content": "And you?"}]
            again.append(client.chat.completions.create(messages=asked, **settings).choices[0].message.content)
        assert len(set(again)) == 1


@pytest.mark.parametrize("field", EMPTY)
@pytest.mark.parametrize("value", [None, "", [], {}])
def test_fields_that_say_nothing_change_nothing(server, field, value):
    said = {"role": "assistant", "content": "Tea."}
    assert answer_of(ask(server, said | {field: value})) == answer_of(ask(server, said))


@pytest.mark.parametrize("field", EMPTY)
def test_fields_that_say_something_are_refused_by_name(server, field):
    value = [{"id": "1", "type": "function"}] if field in ("tool_calls", "annotations") else "No."
    error = ask(server, {"role": "assistant", "content": "Tea.", field: value}).json()["error"]
    assert error["param"] == f"messages.0.{field}"
    assert "is not supported here: leave it out, empty or null" in error["message"]


def test_an_assistant_may_have_said_nothing_and_nobody_else(server):
    nothing = ChatCompletionMessage(role="assistant", content=None).model_dump()
    silent = [{"role": "user", "content": "What now?"}, {"role": "assistant", "content": ""}]
    assert answer_of(ask(server, silent[0], nothing)) == answer_of(ask(server, *silent))
    assert answer_of(ask(server, silent[0], {"role": "assistant"})) == answer_of(ask(server, *silent))
    for message in ({"role": "user", "content": None}, {"role": "system"}):
        error = ask(server, message).json()["error"]
        assert (error["param"], error["code"]) == ("messages.0.content", "invalid_value")


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models", "/v1/models/tiny-random"])
def test_whatever_can_be_got_can_be_asked_for_without_its_body(server, path):
    got, asked = httpx.get(server + path), httpx.head(server + path)
    assert (asked.status_code, asked.content) == (got.status_code, b"")
    assert asked.headers["content-type"] == got.headers["content-type"]
    assert httpx.head(f"{server}/v1/chat/completions").status_code == 405
