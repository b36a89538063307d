"""The directory a run leaves behind: status, log, timings, and results that appear whole or not at all."""

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from persona_prune.common import interrupts
from persona_prune.common.errors import one_line
from persona_prune.common.json_numbers import dump_figures, dump_item, load_figures
from persona_prune.common.text_files import write_last_word, write_text
from persona_prune.models.devices import peak_memory_mb

log = logging.getLogger(__name__)


INTERRUPTED = "interrupted"
"""The error of a run that was stopped by Ctrl-C or a signal to terminate."""

# The status comes last wherever files are moved: until it is gone, a process that is killed left a run behind.
_OURS = (".hydra", "metrics.json", "samples", "persona.safetensors", "report.html", "wandb", "status.json")
_DISCARDED = ".discarded"


class RunDirectory:
    """One run's directory while it is being filled; use `open_run_directory`.

    ``complete``: all of its results are there, so that an interrupt from now on takes nothing away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.complete = False
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, which may come several times, and log its seconds and the peak memory so far."""
        interrupts.check()
        started = time.perf_counter()
        yield
        interrupts.check()
        seconds = time.perf_counter() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        log.info("%-10s %6.1f s   peak memory %.0f MB", name, seconds, peak_memory_mb())

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of figures, all or nothing; null for those that are no numbers."""
        write_text(self.path / name, dump_figures(content))

    def write_samples(self, evaluator: str, samples: Sequence[Mapping[str, Any]]) -> None:
        """Write ``samples/<evaluator>.jsonl``, one line an item."""
        (self.path / "samples").mkdir(exist_ok=True)
        lines = "".join(dump_item(sample) + "\n" for sample in samples)
        write_text(self.path / "samples" / f"{evaluator}.jsonl", lines)

    def status(self, status: str, config_hash: str, error: str | None = None) -> None:
        """Write ``status.json``: running, done or failed."""
        _write_status(self.path, status, config_hash, error)


@contextmanager
def open_run_directory(
    path: Path, config: Mapping[str, Any], config_hash: str, overrides: Sequence[str]
) -> Iterator[RunDirectory]:
    """Make the directory, log into it while the body runs, and leave a true status behind, whatever happens.

    What a failed run left is removed. A finished one is moved to ``previous-N`` inside the directory first, so that
    results of two runs never mix, and stays there unless this run repeats it successfully.

    Raises:
        ValueError: the directory holds files of the same names that are no run's, or a run that is still going on.
    """
    path.mkdir(parents=True, exist_ok=True)
    _refuse_what_is_no_run(path)
    with _held(path):
        repeated = _make_room(path, config_hash)
        run = RunDirectory(path)
        try:
            run.status("running", config_hash)
            (path / ".hydra").mkdir(exist_ok=True)
            write_text(path / ".hydra" / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
            write_text(path / ".hydra" / "overrides.yaml", yaml.safe_dump(list(overrides)))
            with _logging_to(path / "run.log"):
                try:
                    yield run
                except Exception as error:
                    log.debug("traceback", exc_info=error)
                    raise
        except KeyboardInterrupt:
            # What ended the run is what is raised, even where it can't be written down.
            with suppress(OSError):
                run.status(*(("done", config_hash) if run.complete else ("failed", config_hash, INTERRUPTED)))
            if run.complete and repeated is not None:
                _discard(repeated)
            raise
        except BaseException as error:
            with suppress(OSError):
                run.status("failed", config_hash, one_line(error))
            raise
        run.status("done", config_hash)
        if repeated is not None:
            _discard(repeated)


def finished(path: Path, config_hash: str) -> dict[str, float] | None:
    """Return the metrics of the run of this configuration that finished in ``path``; None if none did."""
    status = read_status(path)
    if status is None or status["status"] != "done" or status["config_hash"] != config_hash:
        return None
    try:
        return load_figures((path / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_status(path: Path) -> dict[str, Any] | None:
    """Return what ``status.json`` says, at least ``status`` and ``config_hash``; None if there is none to be read."""
    try:
        status = json.loads((path / "status.json").read_text())
        return dict(status) if {"status", "config_hash"} <= status.keys() else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def in_use(path: Path) -> bool:
    """Return whether a process, on any host that shares the file system, is running in the directory."""
    if not (path / ".lock").exists():
        return False
    try:
        with FileLock(path / ".lock", blocking=False):
            return False
    except Timeout:
        return True


def close_dead(path: Path, error: str) -> bool:
    """Let the status of a run whose process died (was killed) say so; return False if it is running after all."""
    if not path.is_dir():
        return True
    try:
        with _held(path):
            status = read_status(path)
            if status is not None and status["status"] == "running":
                with suppress(OSError):
                    _write_status(path, "failed", status["config_hash"], error)
    except ValueError:
        return False
    return True


def _write_status(path: Path, status: str, config_hash: str, error: str | None) -> None:
    who = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    content = {"status": status, "config_hash": config_hash, "error": error, **who}
    texts = (json.dumps(words, indent=2) + "\n" for words in (content, content | {"error": error and error[:80]}))
    write_last_word(path / "status.json", *texts)


def _refuse_what_is_no_run(path: Path) -> None:
    present = [name for name in _OURS if (path / name).exists()]
    if present and read_status(path) is None:
        names = ", ".join(present)
        raise ValueError(f"output_dir={path} holds {names}, but no run's: choose another directory")


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep other processes out of the directory; a lock dies with its process, however that ends."""
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        status = read_status(path) or {}
        who = f"process {status['pid']} on {status['host']}" if {"pid", "host"} <= status.keys() else "a process"
        raise ValueError(f"output_dir={path}: {who} is still running there") from None
    try:
        yield
    finally:
        lock.release()


def _make_room(path: Path, config_hash: str) -> Path | None:
    """Clear the directory of an earlier run; return where a run of the same configuration was moved to, if any.

    Killed at any point, it can be repeated.
    """
    shutil.rmtree(path / _DISCARDED, ignore_errors=True)
    for partial in path.glob("*.partial"):
        partial.unlink()
    previous = read_status(path)
    if previous is None:
        return None
    present = [path / name for name in _OURS if (path / name).exists()]
    if previous["status"] != "done":
        for file in present[:-1]:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        return None  # the status is about to be overwritten
    number = 1
    while (path / f"previous-{number}" / "status.json").exists():
        number += 1
    aside = path / f"previous-{number}"
    aside.mkdir(exist_ok=True)
    for file in present:
        file.rename(aside / file.name)
    if previous["config_hash"] == config_hash:
        return aside
    log.info("%s held another run: moved to %s", path, aside)
    return None


def _discard(directory: Path) -> None:
    """Delete a directory; killed meanwhile, it leaves nothing that looks like a run."""
    discarded = directory.rename(directory.with_name(_DISCARDED))
    shutil.rmtree(discarded, ignore_errors=True)


class _LogFile(logging.FileHandler):
    """A log that a full disk costs lines, but not a traceback for each of them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send everything that is logged to ``path``."""
    package = logging.getLogger("persona_prune")
    root = logging.getLogger()
    file = _LogFile(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root.addHandler(file)
    level = package.level
    package.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        package.setLevel(level)
        root.removeHandler(file)
        with suppress(OSError):  # a full disk: the run itself says so, or didn't need it
            file.close()
