"""A sweep that is stopped and killed, as a user would, and then gives what an uninterrupted one gives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from persona_prune.runs.directory import read_status


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "persona_prune.run", "--multirun", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell has Ctrl-C ignored, and so have its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def figures(sweep: Path) -> dict[str, dict[str, float]]:
    found = {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/metrics.json")}
    return {name: {k: v for k, v in m.items() if not k.startswith(("time/", "memory/"))} for name, m in found.items()}


@pytest.mark.slow
def test_a_sweep_that_is_stopped_six_times_gives_what_an_uninterrupted_one_gives(tmp_path, cache):
    grid = ["persona=extrovert,introvert", "method.sparsity=0.1,0.2,0.3", "seed=1,2", "study=s"]
    small = ["model=tiny_random", "evaluator=choice", "evaluator.choice.limit=4", "calibration.limit=4"]
    command = [*small, *grid, "method=contrastive_wanda", "controls=[random]", "control_seeds=1", "tracker=none"]
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    with start(*command, cwd=tmp_path / "whole") as whole:
        assert "12 done" in whole.communicate()[1]
    directory = tmp_path / "stopped" / "outputs" / "s"
    kept: dict[Path, float] = {}
    for finished_first, how in zip((0, 1, 3, 5, 7, 9), (signal.SIGINT, signal.SIGKILL) * 3, strict=True):
        with start(*command, cwd=tmp_path / "stopped") as stopped:
            running: list[str] = []
            while len(kept) < finished_first or not running:
                assert stopped.poll() is None
                time.sleep(0.02)
                status = {path: read_status(path.parent) for path in directory.glob("*/status.json")}
                done = [path.parent / "metrics.json" for path, s in status.items() if s["status"] == "done"]
                kept |= {path: path.stat().st_mtime_ns for path in done if path not in kept}
                running = [s for s in status.values() if s["status"] == "running" and s["pid"] == stopped.pid]
            stopped.send_signal(how)
            table = stopped.communicate()[1]
        # CPython ends by the signal itself where it came during an exec(), as of dataclasses; to a shell that is 130.
        assert stopped.returncode in ((130, -signal.SIGINT) if how == signal.SIGINT else (-signal.SIGKILL,))
        assert "Traceback" not in table
        if how == signal.SIGINT:
            states = [job["state"] for job in json.loads((directory / "sweep.json").read_text())["jobs"]]
            assert len(states) == 12
            assert states.count("failed") == states.count("running") == 0
            assert states.count("interrupted") <= 1  # none, where it came between two jobs
            assert not [p for p in directory.glob("*/status.json") if read_status(p.parent)["status"] == "running"]
    with start(*command, cwd=tmp_path / "stopped") as last:
        assert "failed" not in last.communicate()[1]
        assert last.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(figures(directory)) == 12
    assert figures(directory) == figures(tmp_path / "whole" / "outputs" / "s")
    assert not list(directory.rglob("*.partial"))
    assert not list(directory.glob(".sweep-*"))
