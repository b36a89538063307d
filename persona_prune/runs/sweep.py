"""A sweep as a whole: every job leaves a record, wherever it runs, and the records make the closing table."""

import json
import logging
import os
import shutil
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from persona_prune.common.errors import one_line
from persona_prune.common.text_files import write_last_word, write_text
from persona_prune.runs.directory import INTERRUPTED, close_dead, finished, in_use, read_status
from persona_prune.runs.experiment import Outcome, run_experiment
from persona_prune.runs.plan import Plan

log = logging.getLogger(__name__)

RECORDS = "PERSONA_PRUNE_SWEEP"
"""The environment variable that tells a job of a sweep where to leave its record."""

State = Literal["done", "skipped", "failed", "interrupted", "running", "not started"]
_STATES: tuple[State, ...] = ("done", "skipped", "failed", "interrupted", "running", "not started")
_KILLED = "its process was killed (out of memory?)"
_PREFIX = ".sweep-"
_GRACE_S = 5.0  # for workers that are being stopped to let go of their directories


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep, and how far it got.

    ``number`` is Hydra's, from 0; ``seconds`` is what it took in this sweep; ``error`` is the line that says why it
    failed.
    """

    number: int
    overrides: Sequence[str]
    directory: str
    config_hash: str
    state: State
    seconds: float = 0.0
    error: str | None = None


def planned(number: int, overrides: Sequence[str], plan: Plan) -> SweepJob:
    """Return the job that a plan is before anything happened."""
    return SweepJob(number, list(overrides), str(plan.directory), plan.config_hash, "not started")


class Records:
    """The records of a sweep's jobs: one small file each, in a directory that every worker can reach."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, job: SweepJob) -> None:
        """Write or replace the record of a job; a queued job may outlive the sweep, and has nobody to tell then."""
        with suppress(FileNotFoundError):
            write_text(self.directory / f"{job.number}.json", json.dumps(asdict(job)) + "\n")

    def read(self) -> dict[int, SweepJob]:
        """Return the jobs that have started, by number."""
        found = [SweepJob(**json.loads(path.read_text())) for path in self.directory.glob("*.json")]
        return {job.number: job for job in found}


def run_job(plan: Plan, overrides: Sequence[str], number: int, records: Records) -> Outcome | None:
    """Run one job of a sweep and record how it ended; a job that is done already is skipped.

    Returns None, and records nothing, if ``fail_fast`` keeps the job from starting.
    """
    if plan.sweep.fail_fast and any(job.state == "failed" for job in records.read().values()):
        return None
    job = replace(planned(number, overrides, plan), state="running")
    records.write(job)
    _wait_for_twins(job, records)
    started = time.perf_counter()
    ended: tuple[State, str | None] = ("failed", None)
    try:
        outcome = run_experiment(plan, overrides, skip_done=True)
        state: State = "failed" if outcome.error is not None else "skipped" if outcome.skipped else "done"
        ended = (state, outcome.error)
    except KeyboardInterrupt:
        ended = ("interrupted", None)
        raise
    except BaseException as error:
        ended = ("failed", one_line(error))
        raise
    finally:
        seconds = round(time.perf_counter() - started, 1)
        try:
            records.write(replace(job, state=ended[0], seconds=seconds, error=ended[1]))
        except OSError as error:
            # The job's directory says how it ended, and the sweep looks there.
            log.warning("the sweep's record of %s can't be written (%s)", job.directory, one_line(error))
    return outcome


def _wait_for_twins(job: SweepJob, records: Records) -> None:
    """Wait for an earlier job of the sweep with the same configuration that another worker runs now, to skip this one.

    A searching sweeper may well propose the same point twice.
    """
    # Time to get from its record to its directory; if no process is there then, it was killed.
    grace = time.monotonic() + _GRACE_S
    while any(
        other.state == "running" and other.number < job.number and other.config_hash == job.config_hash
        for other in records.read().values()
    ) and (time.monotonic() < grace or in_use(Path(job.directory))):
        time.sleep(0.1)


class Sweep:
    """A sweep on the machine that started it; use `open`.

    Args:
        jobs: the jobs as far as they are known.
        complete: whether that is all of them: a searching sweeper chooses its jobs as it goes.
        command: the command line, for ``sweep.json``.

    ``ended_early`` is for the caller to say that what runs the jobs broke down; ``failed`` tells afterwards whether it
    did or any job failed.
    """

    def __init__(self, jobs: Sequence[SweepJob], *, complete: bool, command: Sequence[str]) -> None:
        self._expected = {job.number: job for job in jobs} if complete else {}
        self._parents = sorted({Path(job.directory).parent for job in jobs})
        self._command = list(command)
        self._interrupted = False
        self.ended_early = False
        self.failed = False
        self._started = time.time()
        self.records = Records(self._parents[0].absolute() / f"{_PREFIX}{uuid.uuid4().hex[:12]}")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep the records while the body runs the jobs; then write ``sweep.json`` and log the table, whatever happens.

        Raises what the body raises.
        """
        for parent in self._parents:
            parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self._parents[0])
        self.records.directory.mkdir()
        with FileLock(self.records.directory / ".lock"):
            try:
                self._write(self.jobs, "running")
            except OSError:
                shutil.rmtree(self.records.directory, ignore_errors=True)
                raise
            self._announce()
            try:
                yield
            except KeyboardInterrupt:
                self._interrupted = True
                raise
            finally:
                self._close()

    @property
    def jobs(self) -> list[SweepJob]:
        """All jobs that are known of, by number, as they are now."""
        return [job for _, job in sorted((self._expected | self.records.read()).items())]

    def _announce(self) -> None:
        known = self._expected.values()
        done = sum(finished(Path(job.directory), job.config_hash) is not None for job in known)
        if known:
            log.info("sweep: %d jobs, %d of them done already", len(known), done)

    def _close(self) -> None:
        # Another Ctrl-C now would cost the table, and what it is for is happening already.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        deadline = time.monotonic() + _GRACE_S
        jobs = [self._settled(job, deadline) if job.state == "running" else job for job in self.jobs]
        self.failed = self.ended_early or any(job.state == "failed" for job in jobs)
        # Before the last word is written: on a full disk it may need the room.
        shutil.rmtree(self.records.directory, ignore_errors=True)
        try:
            self._write(jobs, "interrupted" if self._interrupted else "failed" if self.failed else "done")
        except OSError as error:
            self.failed = True
            log.error("error: sweep.json can't be written: %s", one_line(error))
        log.info("%s", "\n".join(table(jobs)))

    def _settled(self, job: SweepJob, deadline: float) -> SweepJob:
        """Return the job whose record was never completed as its directory shows it; let a dead run's status say so."""
        directory = Path(job.directory)
        while in_use(directory) and time.monotonic() < deadline:
            time.sleep(0.05)
        died = INTERRUPTED if self._interrupted else _KILLED
        if not close_dead(directory, died):
            return job
        status = read_status(directory)
        if status is None or status["config_hash"] != job.config_hash:
            error = died
        elif status["status"] == "done":
            return replace(job, state="done")
        else:
            error = str(status.get("error"))
        if error == INTERRUPTED:
            return replace(job, state="interrupted")
        return replace(job, state="failed", error=error)

    def _write(self, jobs: Sequence[SweepJob], status: str) -> None:
        """Write ``sweep.json`` into each directory that holds runs of this sweep, all or nothing.

        On a full disk, where nothing new can be, over the one that is there; then perhaps without the jobs.
        """
        facts = {
            "status": status,
            "command": self._command,
            "started": self._started,
            "seconds": round(time.time() - self._started, 1),
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }
        for parent in self._parents:
            own = [asdict(job) for job in jobs if Path(job.directory).parent == parent]
            texts = (json.dumps({**facts, "jobs": listed}, indent=2) + "\n" for listed in (own, []))
            write_last_word(parent / "sweep.json", *texts)


def table(jobs: Sequence[SweepJob]) -> list[str]:
    """Return the closing lines of a sweep: how many jobs ended how, and one line a job; reasons below failed ones."""
    counts = Counter(job.state for job in jobs)
    summary = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state]) or "none started"
    lines = [f"sweep: {len(jobs)} jobs: {summary}"]
    one_parent = len({Path(job.directory).parent for job in jobs}) == 1
    for job in jobs:
        name = Path(job.directory).name if one_parent else job.directory
        seconds = f"{job.seconds:9.1f} s" if job.seconds else " " * 11
        lines.append(f"  {job.number:4d}  {job.state:11s}{seconds}  {name}")
        if job.error is not None:
            lines.append(f"        {job.error}")
    return lines


def _remove_abandoned(parent: Path) -> None:
    """Remove the records of sweeps that were killed; a sweep that is running holds its lock."""
    for directory in parent.glob(f"{_PREFIX}*"):
        with suppress(Timeout), FileLock(directory / ".lock", blocking=False):
            shutil.rmtree(directory, ignore_errors=True)
