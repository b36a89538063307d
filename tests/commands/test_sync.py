"""Pushing offline runs, to a server on localhost that remembers what it is sent; and what stands in the way of that."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from persona_prune import sync
from persona_prune.runs.tracking.pushing import find_offline_runs
from tests.reference.offline_wandb import read_finished
from tests.reference.wandb_server import Server, wandb_server
from tests.runs.test_tracking import METRICS, directory, info, signature, tracker  # noqa: F401  (fixtures)


def an_offline_run(where: Path, identity: str = "x1", *, pushed: bool = False, status: object = None) -> Path:
    log = where / "wandb" / f"offline-run-20260102_030405-{identity}" / f"run-{identity}.wandb"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"")
    if pushed:
        log.with_suffix(".wandb.synced").touch()
    if status is not None:
        (where / "status.json").write_text(json.dumps(status))
    return log


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with wandb_server() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield found


def test_runs_are_found_wherever_they_lie_and_once(tmp_path):
    first = an_offline_run(tmp_path / "study" / "run", "a")
    second = an_offline_run(tmp_path / "study" / "run" / "previous-1", "b")
    (tmp_path / "study" / "run" / "wandb" / "run-20260102_030405-c").mkdir()
    an_offline_run(tmp_path / "study" / "run" / ".discarded", "d")
    found = find_offline_runs([tmp_path, tmp_path / "study"])
    assert [(run.id, run.log, run.directory) for run in found] == [
        ("a", first, tmp_path / "study" / "run"),
        ("b", second, tmp_path / "study" / "run" / "previous-1"),
    ]


def test_who_logs_offline_can_push_with_the_key_that_wandb_login_left(tmp_path, monkeypatch):
    an_offline_run(tmp_path / "run", "a", status={"status": "done", "host": "x", "pid": 1})
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9\n  login user\n  password {'0' * 40}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    environment = {**os.environ, "WANDB_MODE": "offline", "NETRC": str(tmp_path / "netrc")}
    environment["WANDB_BASE_URL"] = "http://127.0.0.1:9"  # where nobody answers
    done = subprocess.run(
        [sys.executable, "-m", "persona_prune.sync", str(tmp_path)],
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "not logged in" not in done.stderr
    assert "127.0.0.1:9" in done.stderr


def test_a_run_is_left_alone_while_it_is_being_written(tmp_path):
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    cases = {
        "done": ({**here, "status": "done"}, False, "waiting"),
        "alive": ({**here, "status": "running"}, False, "running"),
        "elsewhere": ({"host": "another", "pid": 1, "status": "running"}, False, "running"),
        "killed": ({**here, "pid": 2**22 + 1, "status": "running"}, False, "waiting"),
        "damaged": ("not a mapping", False, "waiting"),
        "pushed": ({**here, "status": "done"}, True, "pushed"),
    }
    for name, (status, pushed, _) in cases.items():
        an_offline_run(tmp_path / name, name, pushed=pushed, status=status)
    states = {run.directory.name: run.state for run in find_offline_runs([tmp_path])}
    assert states == {name: state for name, (_, _, state) in cases.items()}


def test_a_dry_run_lists_what_waits(tmp_path, capsys):
    an_offline_run(tmp_path / "one", "a")
    an_offline_run(tmp_path / "two", "b", pushed=True)
    assert sync.main([str(tmp_path), "--dry-run"]) == 0
    assert capsys.readouterr().out == f"waiting  {tmp_path / 'one'}\n1 to push, 1 pushed before\n"


def test_what_stands_in_the_way_is_one_line(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    # Nobody listens there.
    environment |= {"NETRC": str(tmp_path / "none"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])

    def said(argument: str, **more: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "persona_prune.sync", argument]
        done = subprocess.run(command, env=environment | more, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    assert said("nowhere") == (2, "error: no directory nowhere: name one that holds run directories\n")
    assert said(".") == (0, "no offline W&B runs below .\n")
    an_offline_run(tmp_path / "one", "a")
    waiting = "(still to be pushed: 1)\n"
    no_account = f"error: not logged in to W&B: run `wandb login`, or set WANDB_API_KEY {waiting}"
    assert said(".") == (1, no_account)
    no_network = f"error: W&B at http://127.0.0.1:9 can't be reached ([Errno 111] Connection refused) {waiting}"
    assert said(".", WANDB_API_KEY="0" * 40) == (1, no_network)


def test_pushed_runs_arrive_with_their_lineage_and_are_pushed_once(
    directory: Path,  # noqa: F811
    signature: Path,  # noqa: F811
    server: Server,
    capsys,
):
    whole, broken = directory, directory.parent / "broken"
    shutil.copytree(whole, broken)
    for run in (whole, broken):
        tracker(mode="offline").start(info(run)).finish(METRICS, [signature])
        read_finished(run)
    (broken / "persona.safetensors").unlink()
    assert sync.main([str(directory.parent), "--entity", "team", "--project", "other"]) == 1
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines[0] == "1 pushed, 1 failed, 0 pushed before"
    assert lines[1].startswith(f"failed   {broken}: {broken / 'persona.safetensors'} is gone")
    assert lines[2] == f"pushed   {whole}"

    persona, stem = "tiny-extrovert-wanda-0.25-seed42", f"signature-{signature.stem}"
    run = server.variables("UpsertBucket")[0]
    assert (run["entity"], run["project"], run["groupName"], run["jobType"]) == ("team", "other", "s", "wanda")
    made = {v["input"]["artifactCollectionName"]: v["input"] for v in server.variables("CreateArtifact")}
    assert (made[persona]["artifactTypeName"], made[stem]["artifactTypeName"]) == ("persona", "signature")
    assert {v["input"]["artifactID"] for v in server.variables("UseArtifact")} == {stem}
    kept = server.uploaded[f"/artifact/{persona}/persona.safetensors"]
    assert kept == (whole / "persona.safetensors").read_bytes()
    assert server.uploaded[f"/artifact/{stem}/{signature.name}"] == signature.read_bytes()

    assert not Path("wandb").exists(), "nothing is left where the command was given"
    shutil.rmtree(broken)
    asked = len(server.asked)
    assert sync.main([str(directory.parent)]) == 0
    assert capsys.readouterr().out == "0 pushed, 0 failed, 1 pushed before\n"
    assert len(server.asked) == asked


def test_a_run_that_the_server_refuses_is_to_be_pushed_again(directory: Path, server: Server, capsys):  # noqa: F811
    tracker(mode="offline").start(info(directory)).fail("no reason")
    read_finished(directory)
    server.refuse.add("UpsertBucket")
    assert sync.main([str(directory)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"failed   {directory}: ")
    assert "UpsertBucket is not allowed" in first
    assert last == "0 pushed, 1 failed, 0 pushed before"
    assert [run.state for run in find_offline_runs([directory])] == ["waiting"]
