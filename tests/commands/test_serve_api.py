import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from persona_prune.models.loaded import LoadedModel
from tests.conftest import tiny_model
from tests.serving_support import PROMPTS, alone, personas_for, running, scheduler_for, service_for, tokens_of

WHO = ["", ":extrovert", ":introvert"]


@pytest.fixture(scope="module")
def model(cache) -> LoadedModel:
    return tiny_model()


@pytest.fixture(scope="module")
def expected(model) -> dict[tuple[str, str], str]:
    """Name's end and prompt -> the greedy answer of that persona alone, 8 tokens."""
    masks = personas_for(model)
    return {(who, p): alone(model, masks.get(who[1:]), p) for who in WHO for p in PROMPTS}


@pytest.fixture(scope="module")
def scheduler(model, expected):
    scheduler = scheduler_for(model)
    scheduler.start()
    yield scheduler
    scheduler.close(0)
    scheduler.join()


@pytest.fixture(scope="module")
def server(model, scheduler):
    with running(service_for(model, scheduler)) as address:
        yield address


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(prompt: str = "Why?", **changes: object) -> dict[str, object]:
    body = {"model": "tiny-random", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    return body | {"max_tokens": 8} | changes


def events(text: str) -> list[dict]:
    parts = text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    assert all(part.startswith("data: ") for part in parts[:-1])
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def test_the_models_are_the_dense_one_and_its_personas(client):
    names = ["tiny-random", "tiny-random:extrovert", "tiny-random:introvert"]
    assert [model.id for model in client.models.list()] == names
    assert client.models.retrieve(names[1]).id == names[1]


def test_sixteen_clients_get_what_their_persona_says_alone(client, expected):
    def ask(number: int) -> bool:
        who, prompt = WHO[number % 3], PROMPTS[number % 4]
        asked = {"model": f"tiny-random{who}", "messages": [{"role": "user", "content": prompt}]}
        settings = {"temperature": 0, "max_tokens": 8}
        if number % 2:
            answer = client.chat.completions.create(**asked, **settings)
            return answer.choices[0].message.content == expected[who, prompt] and answer.model == asked["model"]
        chunks = client.chat.completions.create(**asked, **settings, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected[who, prompt]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(32)))


def test_a_whole_answer_says_what_it_took_and_why_it_ended(server, model, expected):
    answer = httpx.post(f"{server}/v1/chat/completions", json=chat()).json()
    prompt = len(tokens_of(model, "Why?"))
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 8, "total_tokens": prompt + 8}
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["object"] == "chat.completion"
    assert answer["system_fingerprint"] == model.fingerprint
    text = answer["choices"][0]["message"]["content"]
    stopped = httpx.post(f"{server}/v1/chat/completions", json=chat(stop=text[4:7])).json()["choices"][0]
    assert stopped["message"]["content"] == text[: text.index(text[4:7])]
    assert stopped["finish_reason"] == "stop"


def test_a_stream_is_role_text_reason_and_usage(server, model, expected):
    body = chat(PROMPTS[2], stream=True, stream_options={"include_usage": True}, max_completion_tokens=8)
    response = httpx.post(f"{server}/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *middle, last, usage = events(response.text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle) == expected["", PROMPTS[2]]
    assert len(middle) > 1
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 8
    assert all(chunk["usage"] is None for chunk in (first, *middle, last))
    assert len({chunk["id"] for chunk in (first, *middle, last, usage)}) == 1
    plain = events(httpx.post(f"{server}/v1/chat/completions", json=chat(stream=True)).text)
    assert not any("usage" in chunk for chunk in plain)


def test_completions_take_a_plain_prompt(server, model):
    body = {"model": "tiny-random", "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
    answer = httpx.post(f"{server}/v1/completions", json=body).json()
    assert answer["usage"]["prompt_tokens"] == len(model.tokenizer("Once upon a time").input_ids)
    assert (answer["object"], answer["id"][:5]) == ("text_completion", "cmpl-")
    chunks = events(
        httpx.post(f"{server}/v1/completions", json=body | {"prompt": [body["prompt"]], "stream": True}).text
    )
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == answer["choices"][0]["text"]


def test_sampling_follows_the_seed(server):
    def text(**changes: object) -> str:
        answer = httpx.post(f"{server}/v1/chat/completions", json=chat(**{"temperature": 1.0} | changes)).json()
        return answer["choices"][0]["message"]["content"]

    assert text(seed=1) == text(seed=1) != text(seed=2)
    assert text(seed=1, temperature=0) == text(seed=2, temperature=0) == text(seed=3, top_p=0)
    assert text() != text(), "without a seed every answer is another"


def test_parts_of_text_and_other_roles_are_rendered(server, model):
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
    answers = [
        httpx.post(f"{server}/v1/chat/completions", json=chat(messages=messages)).json()
        for messages in (
            [{"role": "user", "content": parts}],
            [{"role": "user", "content": "Why?"}],
            [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
        )
    ]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert texts[0] == texts[1] != texts[2] == texts[3]


def test_a_client_that_leaves_frees_its_place(server, scheduler, model):
    before = scheduler.figures()["requests_cancelled_total"]
    body = chat("Tell me a story.", stream=True, max_tokens=64)
    with httpx.stream("POST", f"{server}/v1/chat/completions", json=body) as response:
        next(response.iter_text())
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server}/v1/chat/completions", json=chat(max_tokens=64), timeout=0.05)
    deadline = time.monotonic() + 60
    while scheduler.figures()["requests_running"] or scheduler.figures()["requests_waiting"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert scheduler.figures()["requests_cancelled_total"] > before


def test_health_and_metrics(server):
    assert httpx.get(f"{server}/health").json() == {"status": "ok"}
    metrics = httpx.get(f"{server}/metrics").text
    figures = dict(line.split() for line in metrics.splitlines() if not line.startswith("#"))
    assert float(figures["persona_prune_persona_switches_total"]) > 0
    assert float(figures["persona_prune_persona_switch_seconds_total"]) > 0
    assert "# TYPE persona_prune_requests_waiting gauge" in metrics


def test_the_page_needs_nothing_from_elsewhere(server):
    response = httpx.get(f"{server}/")
    assert "text/html" in response.headers["content-type"]
    assert not re.search(r"https?://|src=|@import|url\(", response.text)
    assert "innerHTML" not in response.text
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
