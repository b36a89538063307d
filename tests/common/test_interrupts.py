import os
import signal
from contextlib import suppress

import pytest

from persona_prune.common import interrupts
from persona_prune.common.progress import progress_bar
from persona_prune.runs.directory import open_run_directory, read_status


@pytest.fixture
def listening(monkeypatch):
    monkeypatch.setattr(interrupts, "_asked", False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_library_swallows_ends_the_run_at_the_stage(listening, tmp_path, number):
    reached = []

    def measure():
        with open_run_directory(tmp_path / "run", {}, "1" * 12, []) as run:
            with run.stage("load"):
                with suppress(BaseException):
                    os.kill(os.getpid(), number)
                    reached.append("after the signal")
                reached.append("after the library")
            reached.append("the next stage")

    with pytest.raises(KeyboardInterrupt):
        measure()
    assert reached == ["after the library"]
    assert read_status(tmp_path / "run")["error"] == "interrupted"


def test_without_a_signal_nothing_is_raised(listening, tmp_path):
    with open_run_directory(tmp_path / "run", {}, "1" * 12, []) as run, run.stage("load"):
        progress_bar("items", 1)(1)
    assert read_status(tmp_path / "run")["status"] == "done"


def test_a_background_job_goes_on_ignoring_ctrl_c(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupts.listen()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
