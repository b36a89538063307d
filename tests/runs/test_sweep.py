"""Sweeps that survive: what is recorded of each job, and what an interruption may not cost."""

import dataclasses
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from persona_prune.runs import directory, sweep
from persona_prune.runs.directory import close_dead, finished, in_use, open_run_directory, read_status
from persona_prune.runs.experiment import Outcome
from persona_prune.runs.sweep import Records, Sweep, SweepJob, run_job, table
from tests.runs.test_sweep_settings import settings

HASHES = {"a": "1" * 12, "b": "2" * 12, "c": "3" * 12}


def jobs(parent: Path) -> list[SweepJob]:
    return [SweepJob(n, [f"name={k}"], str(parent / k), h, "not started") for n, (k, h) in enumerate(HASHES.items())]


def plan(parent: Path, name: str, **changes):
    return SimpleNamespace(directory=parent / name, config_hash=HASHES[name], config={}, sweep=settings(**changes))


def finish(parent: Path, name: str, value: float = 1.0) -> None:
    with open_run_directory(parent / name, {}, HASHES[name], []) as run:
        run.write_json("metrics.json", {"value": value})


@pytest.fixture
def ends(monkeypatch):
    """Let jobs do what a test says, by directory name, instead of an experiment."""
    what: dict[str, object] = {}

    def experiment(plan, overrides, *, skip_done):
        if skip_done and finished(plan.directory, plan.config_hash) is not None:
            return Outcome({}, None, skipped=True)
        action = what.get(plan.directory.name)
        try:
            with open_run_directory(plan.directory, {}, plan.config_hash, overrides) as run:
                if isinstance(action, BaseException):
                    raise action
                run.write_json("metrics.json", {"value": 1.0})
        except Exception as error:
            return Outcome({}, str(error))
        return Outcome({}, None)

    monkeypatch.setattr(sweep, "run_experiment", experiment)
    # Closing a sweep shuts its ears to further signals: the tests' own are given back.
    before = signal.getsignal(signal.SIGINT)
    yield what
    signal.signal(signal.SIGINT, before)


def swept(parent: Path, *, dead: str | None = None, **changes) -> tuple[dict[str, str], str]:
    """Sweep over all jobs; return the states of ``sweep.json`` and its status."""
    whole = Sweep(jobs(parent), complete=True, command=["--multirun"])
    try:
        with whole.open():
            for number, name in enumerate(HASHES):
                if name == dead:
                    whole.records.write(SweepJob(number, [], str(parent / name), HASHES[name], "running"))
                else:
                    run_job(plan(parent, name, **changes), [f"name={name}"], number, whole.records)
    except KeyboardInterrupt:
        pass
    found = json.loads((parent / "sweep.json").read_text())
    assert not list(parent.glob(".sweep-*"))
    assert whole.failed == ("failed" in [job["state"] for job in found["jobs"]])
    return {Path(job["directory"]).name: job["state"] for job in found["jobs"]}, found["status"]


def test_done_jobs_are_skipped_and_failed_ones_tried_again(tmp_path, ends):
    ends["b"] = ValueError("no such layer")
    assert swept(tmp_path) == ({"a": "done", "b": "failed", "c": "done"}, "failed")
    assert json.loads((tmp_path / "sweep.json").read_text())["jobs"][1]["error"] == "no such layer"
    before = (tmp_path / "a" / "status.json").read_bytes()
    del ends["b"]
    assert swept(tmp_path) == ({"a": "skipped", "b": "done", "c": "skipped"}, "done")
    assert (tmp_path / "a" / "status.json").read_bytes() == before


def test_fail_fast_starts_nothing_after_a_failure(tmp_path, ends):
    ends["b"] = ValueError("no such layer")
    assert swept(tmp_path, fail_fast=True)[0] == {"a": "done", "b": "failed", "c": "not started"}
    assert not (tmp_path / "c").exists()


def test_an_interrupted_sweep_says_which_jobs_it_never_reached(tmp_path, ends):
    ends["b"] = KeyboardInterrupt()
    assert swept(tmp_path) == ({"a": "done", "b": "interrupted", "c": "not started"}, "interrupted")
    assert read_status(tmp_path / "b")["error"] == "interrupted"
    del ends["b"]
    assert swept(tmp_path)[0] == {"a": "skipped", "b": "done", "c": "done"}


def test_a_job_whose_process_died_has_failed_and_its_status_says_so(tmp_path, ends):
    (tmp_path / "b").mkdir()
    status = {"status": "running", "config_hash": HASHES["b"], "error": None, "pid": 2**22 + 1, "host": "gone"}
    (tmp_path / "b" / "status.json").write_text(json.dumps(status))
    assert swept(tmp_path, dead="b")[0] == {"a": "done", "b": "failed", "c": "done"}
    assert "killed" in read_status(tmp_path / "b")["error"]
    assert read_status(tmp_path / "b")["status"] == "failed"


def test_a_worker_that_finished_without_a_record_is_believed(tmp_path, ends):
    finish(tmp_path, "b")
    assert swept(tmp_path, dead="b")[0]["b"] == "done"


def test_a_job_that_still_runs_elsewhere_is_neither_dead_nor_done(tmp_path, ends, monkeypatch):
    monkeypatch.setattr(sweep, "_GRACE_S", 0.1)
    (tmp_path / "b").mkdir()
    with FileLock(tmp_path / "b" / ".lock"):
        assert in_use(tmp_path / "b")
        assert not close_dead(tmp_path / "b", "killed")
        assert swept(tmp_path, dead="b")[0]["b"] == "running"
    assert not in_use(tmp_path / "b")


def test_the_records_of_a_killed_sweep_are_removed_and_those_of_a_running_one_kept(tmp_path, ends):
    for name in (".sweep-dead", ".sweep-alive"):
        (tmp_path / name).mkdir()
    with FileLock(tmp_path / ".sweep-alive" / ".lock"):
        whole = Sweep(jobs(tmp_path), complete=True, command=[])
        with whole.open():
            assert not (tmp_path / ".sweep-dead").exists()
    assert [path.name for path in tmp_path.glob(".sweep-*")] == [".sweep-alive"]


def test_a_searching_sweeper_has_the_jobs_that_it_started(tmp_path, ends):
    whole = Sweep(jobs(tmp_path)[:1], complete=False, command=[])
    with whole.open():
        run_job(plan(tmp_path, "c"), ["name=c"], 5, whole.records)
    found = json.loads((tmp_path / "sweep.json").read_text())["jobs"]
    assert [(job["number"], job["state"], job["overrides"]) for job in found] == [(5, "done", ["name=c"])]


def test_a_queued_job_may_outlive_its_sweep(tmp_path, ends):
    assert run_job(plan(tmp_path, "a"), [], 0, Records(tmp_path / "gone")).error is None
    assert finished(tmp_path / "a", HASHES["a"]) == {"value": 1.0}


def test_a_sweep_whose_launcher_broke_down_is_not_done(tmp_path, ends):
    whole = Sweep(jobs(tmp_path), complete=True, command=[])
    with whole.open():
        whole.ended_early = True
    assert whole.failed
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert (found["status"], {job["state"] for job in found["jobs"]}) == ("failed", {"not started"})


def test_the_same_job_at_the_same_time_is_waited_for_and_skipped(tmp_path, ends, monkeypatch):
    monkeypatch.setattr(sweep, "_GRACE_S", 30)
    records = Records(tmp_path / "records")
    records.directory.mkdir()
    twin = SweepJob(0, [], str(tmp_path / "a"), HASHES["a"], "running")
    records.write(twin)
    found = []
    later = threading.Thread(target=lambda: found.append(run_job(plan(tmp_path, "a"), [], 1, records)))
    later.start()
    later.join(0.5)
    assert later.is_alive()
    finish(tmp_path, "a")
    records.write(dataclasses.replace(twin, state="done"))
    later.join(30)
    assert found[0].skipped
    assert records.read()[1].state == "skipped"
    # One whose process was killed never ends.
    monkeypatch.setattr(sweep, "_GRACE_S", 0.1)
    records.write(SweepJob(0, [], str(tmp_path / "b"), HASHES["b"], "running"))
    assert not run_job(plan(tmp_path, "b"), [], 1, records).skipped


def test_the_table_counts_and_gives_reasons(tmp_path):
    found = [
        SweepJob(0, [], "o/s/a", "1", "done", 12.34),
        SweepJob(1, [], "o/s/b", "2", "failed", 0.5, "no such layer"),
    ]
    assert table(found) == [
        "sweep: 2 jobs: 1 done, 1 failed",
        "     0  done            12.3 s  a",
        "     1  failed           0.5 s  b",
        "        no such layer",
    ]
    assert table([])[0] == "sweep: 0 jobs: none started"


@pytest.mark.parametrize("step", range(1, 12))
def test_clearing_a_directory_can_be_killed_anywhere(tmp_path, monkeypatch, step):
    """Killed at its n-th change, it leaves what the next start can clear, and a finished run of another kind whole."""
    finish(tmp_path, "a", 7.0)
    (tmp_path / "a" / "samples").mkdir()
    (tmp_path / "a" / "samples" / "choice.jsonl").write_text("{}\n")

    class Killed(BaseException):
        pass

    changes = iter(range(1, step + 1))

    def dying(real):
        def change(*arguments, **options):
            if next(changes, step) == step:
                raise Killed
            return real(*arguments, **options)

        return change

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "mkdir"):
            patch.setattr(Path, name, dying(getattr(Path, name)))
        patch.setattr(directory.shutil, "rmtree", dying(directory.shutil.rmtree))
        patch.setattr(directory, "_write_status", dying(directory._write_status))
        try:
            with open_run_directory(tmp_path / "a", {}, HASHES["b"], []) as run:
                run.write_json("metrics.json", {"value": 8.0})
        except Killed:
            pass
    with open_run_directory(tmp_path / "a", {}, HASHES["b"], []) as run:
        run.write_json("metrics.json", {"value": 8.0})
    assert finished(tmp_path / "a", HASHES["b"]) == {"value": 8.0}
    kept = [path for path in (tmp_path / "a").glob("previous-*") if finished(path, HASHES["a"]) == {"value": 7.0}]
    assert len(kept) == 1
    assert (kept[0] / "samples" / "choice.jsonl").exists()
    assert not list((tmp_path / "a").rglob("*.partial"))


def test_a_directory_takes_one_run_at_a_time_and_a_killed_one_frees_it(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from persona_prune.runs.directory import open_run_directory\n"
        "with open_run_directory(Path(sys.argv[1]), {}, 'h', []) as run:\n"
        "    run.write_json('metrics.json', {}); print('ready', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        with (
            pytest.raises(ValueError, match=f"process {other.pid} on .* is still running there"),
            open_run_directory(tmp_path / "a", {}, HASHES["a"], []),
        ):
            pass
        assert in_use(tmp_path / "a")
        other.kill()
    assert not in_use(tmp_path / "a")
    finish(tmp_path, "a")
    assert finished(tmp_path / "a", HASHES["a"]) == {"value": 1.0}
    assert not list((tmp_path / "a").glob("previous-*"))
