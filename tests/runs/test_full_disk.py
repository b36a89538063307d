"""A disk that is full halfway through a sweep (datatrove 218): what is on it tells the truth all the same.

A write that is all or nothing needs room for a second file; where there was none, ``sweep.json`` and ``status.json``
said "running" for good.
"""

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from persona_prune import run
from persona_prune.common.text_files import write_last_word, write_text
from persona_prune.runs import directory
from persona_prune.runs.directory import finished, open_run_directory, read_status
from persona_prune.runs.instantiating import ConfigError
from persona_prune.runs.sweep import Records, Sweep, run_job
from tests.runs.test_sweep import HASHES, ends, jobs, plan, swept  # noqa: F401

FULL = errno.ENOSPC


@pytest.fixture
def disk(monkeypatch):
    """A disk that is full for new files while ``disk["full"]``: half of what is written arrives."""
    state = {"full": False}
    write = Path.write_text

    def write_text(self, data, *arguments, **options):
        if state["full"]:
            write(self, data[: len(data) // 2], *arguments, **options)
            raise OSError(FULL, os.strerror(FULL))
        return write(self, data, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    return state


class FillingError(OSError):
    """What a job meets that fills the disk."""

    def __init__(self, disk):
        super().__init__(FULL, os.strerror(FULL))
        self.disk = disk

    def __str__(self):
        self.disk["full"] = True
        return super().__str__()


def test_a_sweep_whose_disk_fills_up_has_failed_and_says_so(tmp_path, ends, disk, caplog):  # noqa: F811
    ends["b"] = FillingError(disk)
    whole = Sweep(jobs(tmp_path), complete=True, command=["--multirun"])
    with whole.open():
        for number, name in enumerate("ab"):
            run_job(plan(tmp_path, name), [f"name={name}"], number, whole.records)
        with pytest.raises(OSError, match=r"No space left on device: '.*2\.json'"):
            run_job(plan(tmp_path, "c"), ["name=c"], 2, whole.records)
        whole.ended_early = True
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert (found["status"], [job["state"] for job in found["jobs"]]) == ("failed", ["done", "failed", "not started"])
    assert "No space left" in found["jobs"][1]["error"]
    assert whole.failed
    assert read_status(tmp_path / "b")["status"] == "failed"
    assert "the sweep's record of" in caplog.text
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.glob(".sweep-*"))
    disk["full"] = False
    del ends["b"]
    assert swept(tmp_path) == ({"a": "skipped", "b": "done", "c": "done"}, "done")


def test_a_sweep_that_can_not_begin_is_one_line(tmp_path, disk):
    disk["full"] = True
    with pytest.raises(ConfigError) as raised, run._opened(Sweep(jobs(tmp_path), complete=True, command=[])):
        pass
    (line,) = raised.value.problems
    assert line.startswith("the sweep can't begin: [Errno 28] No space left on device: ")
    assert line.endswith("sweep.json'; name another place with output_dir=DIR")
    assert not list(tmp_path.iterdir())


def test_a_run_that_finished_on_a_full_disk_is_done_and_one_that_failed_keeps_its_reason(tmp_path, disk):
    with open_run_directory(tmp_path / "a", {}, HASHES["a"], []) as opened:
        opened.write_json("metrics.json", {"value": 1.0})
        disk["full"] = True
    assert finished(tmp_path / "a", HASHES["a"]) == {"value": 1.0}
    disk["full"] = False

    def failing():
        with open_run_directory(tmp_path / "b", {}, HASHES["b"], []):
            disk["full"] = True
            raise ValueError("no such layer")

    with pytest.raises(ValueError, match="no such layer"):
        failing()
    assert (read_status(tmp_path / "b")["status"], read_status(tmp_path / "b")["error"]) == ("failed", "no such layer")


def test_the_last_word_goes_over_the_one_before_and_needs_no_more_room(tmp_path, disk, monkeypatch):
    path = tmp_path / "word.json"
    disk["full"] = True
    with pytest.raises(OSError, match="No space left"):
        write_last_word(path, "new", "n")
    assert not list(tmp_path.iterdir())
    disk["full"] = False
    write_text(path, "x" * 5000)
    disk["full"] = True
    write_last_word(path, "short", "s")
    assert path.read_text() == "short"
    # A file can't grow on a full disk.
    opened = Path.open

    def too_long(self, *arguments, **options):
        file = opened(self, *arguments, **options)
        write = file.write

        def grow(text):
            if len(text) > 5:
                write(text[:5])
                raise OSError(FULL, os.strerror(FULL))
            return write(text)

        file.write = grow
        return file

    monkeypatch.setattr(Path, "open", too_long)
    write_last_word(path, "longer than before", "word")
    monkeypatch.undo()
    assert path.read_text() == "word"


def test_a_log_that_can_not_be_written_is_no_page_of_tracebacks(tmp_path, capsys, monkeypatch):
    with open_run_directory(tmp_path / "a", {}, HASHES["a"], []) as opened:
        opened.write_json("metrics.json", {"value": 1.0})
        (handler,) = [handler for handler in logging.getLogger().handlers if isinstance(handler, directory._LogFile)]

        def full(*_):
            raise OSError(FULL, os.strerror(FULL))

        handler.stream = type("Full", (), {"write": full, "flush": full, "close": full})()
        logging.getLogger("persona_prune").info("a line")
    assert finished(tmp_path / "a", HASHES["a"]) == {"value": 1.0}
    assert "Traceback" not in capsys.readouterr().err


def test_the_record_of_a_job_that_ended_is_not_worth_its_results(tmp_path, ends, disk):  # noqa: F811
    records = Records(tmp_path / "records")
    records.directory.mkdir()
    ends["b"] = FillingError(disk)
    assert "No space left" in run_job(plan(tmp_path, "b"), [], 0, records).error
    assert records.read()[0].state == "running"
