import dataclasses
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import yaml

from persona_prune.common.conf_files import config_directory
from persona_prune.saved.mask_file import save_mask
from persona_prune.serve.__main__ import main
from persona_prune.serve.settings import ServerSettings
from tests.serving_support import personas_for


@pytest.fixture
def persona_file(tiny, tmp_path) -> Path:
    path = tmp_path / "persona.safetensors"
    save_mask(personas_for(tiny)["extrovert"], path)
    return path


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Check that the arguments are refused in one line, and return it."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no persona: give at least one, as personas.extrovert=FILE"),
        (["personas.a=FILE", "prot=1"], "prot: unknown key; did you mean port?"),
        (["persona.a=FILE"], "persona.a: unknown key; did you mean personas."),
        (["personas=FILE"], "personas: unknown key; did you mean personas.NAME?"),
        (["personas.a=FILE", "port"], "port: expected key=value"),
        (["personas.a="], "personas.a=: expected key=value"),
        (["personas.a=FILE", "port=1", "port=2"], "port: given twice"),
        (["personas.a:b=FILE"], "a persona's name is made of letters"),
        (["personas.a=FILE", "port=http"], "port=http: must be a valid integer"),
        (["personas.a=FILE", "port=70000"], "port=70000: must be less than or equal to 65535"),
        (["personas.a=FILE", "batch=0"], "batch=0: must be greater than or equal to 1"),
        (["personas.a=FILE", "turn_seconds=0"], "turn_seconds=0.0: must be greater than 0"),
        (["personas.a=FILE", "shutdown_seconds=[1"], "shutdown_seconds=[1: not a number"),
        (["personas.a=FILE", "model=tiny_random"], "no persona file at FILE"),
    ],
)
def test_bad_arguments_are_refused_before_anything_loads(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("persona_prune.models.sources.RandomModel.load", None)
    assert message in error_of(capsys, *arguments)


def test_a_damaged_persona_file_and_a_taken_port_are_known_before_the_weights_load(
    persona_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("persona_prune.models.sources.RandomModel.load", None)
    (tmp_path / "bad").write_bytes(b"not a persona")
    arguments = ["model=tiny_random", f"personas.a={persona_file}"]
    assert "model=smolm2_135m: no such model" in error_of(capsys, "model=smolm2_135m", arguments[1])
    assert "model.dtype=float8" in error_of(capsys, *arguments, "dtype=float8")
    assert "does not name its model: give it with model=" in error_of(capsys, arguments[1])
    assert "is not a readable persona file" in error_of(capsys, *arguments, f"personas.b={tmp_path}/bad")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot serve on host=127.0.0.1 port={port}" in error_of(capsys, *arguments, f"port={port}")
    assert "cannot serve on host=no.such.host.invalid" in error_of(capsys, *arguments, "host=no.such.host.invalid")


def test_a_persona_of_another_model_is_refused_by_name(tiny, tmp_path, capsys):
    other = dataclasses.replace(personas_for(tiny)["extrovert"], model_fingerprint="0123456789abcdef")
    save_mask(other, tmp_path / "other.safetensors")
    error = error_of(capsys, "model=tiny_random", "port=0", f"personas.guest={tmp_path}/other.safetensors")
    assert "persona guest: the mask was made for the model with fingerprint 0123456789abcdef" in error


def test_every_key_has_its_default_in_the_yaml(capsys):
    defaults = yaml.safe_load((config_directory() / "serve.yaml").read_text())
    assert list(defaults) == [field.name for field in dataclasses.fields(ServerSettings)]
    ServerSettings(**defaults | {"personas": {"a": "FILE"}})
    assert main(["--help"]) == 0
    assert "personas.extrovert=FILE" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_running_answers_finish_and_refuses_waiting_ones(number, persona_file):
    arguments = ["model=tiny_random", f"personas.extrovert={persona_file}", "port=0", "batch=1", "host=127.0.0.1"]
    command = [sys.executable, "-m", "persona_prune.serve", *arguments]
    environment = {**os.environ, "PERSONA_PRUNE_API_KEY": "secret"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        ready = process.stderr.readline()
        assert ready.startswith("serving tiny-random, tiny-random:extrovert on http://127.0.0.1:")
        url = f"{ready.split()[-1]}/v1/chat/completions"
        body = {"model": "tiny-random:extrovert", "messages": [{"role": "user", "content": "Tell me a story."}]}
        headers = {"Authorization": "Bearer secret"}
        waiting: queue.Queue[httpx.Response] = queue.Queue()

        def ask() -> None:
            waiting.put(httpx.post(url, json=body, headers=headers, timeout=120))

        with httpx.stream("POST", url, json=body | {"stream": True}, headers=headers, timeout=120) as response:
            lines = response.iter_lines()
            next(lines)
            asker = threading.Thread(target=ask)
            asker.start()
            metrics = url.replace("v1/chat/completions", "metrics")
            while "requests_waiting 1" not in httpx.get(metrics, headers=headers, timeout=60).text:
                pass
            process.send_signal(number)
            rest = [line.removeprefix("data: ") for line in lines if line]
        asker.join()
        assert waiting.get().status_code == 503
        assert rest[-1] == "[DONE]"
        assert json.loads(rest[-2])["choices"][0]["finish_reason"] in ("stop", "length")
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
