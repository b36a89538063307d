"""Pushing runs that were logged offline: finding them, and having W&B's own ``wandb sync`` do it."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from persona_prune.runs.tracking.wandb_limits import OF_ONE_RUN

_NEEDED = "needed_to_push.json"
_TOLD = re.compile(r"^(?:wandb: )?(?:ERROR|Error:) (?!Find detailed error logs)(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class OfflineRun:
    """One W&B run on disk.

    Attributes:
        log: its ``.wandb`` file.
        directory: the run directory that it lies in.
    """

    log: Path
    directory: Path

    @property
    def id(self) -> str:
        """W&B's name for the run."""
        return self.log.stem.removeprefix("run-")

    @property
    def state(self) -> Literal["pushed", "running", "waiting"]:
        """Whether W&B has it, it is being written, or it can be pushed."""
        if self.log.with_suffix(".wandb.synced").exists():
            return "pushed"
        return "running" if _running(self.directory) else "waiting"


def find_offline_runs(directories: Sequence[Path]) -> list[OfflineRun]:
    """Return the offline runs anywhere below ``directories``, each once, in the order in which they were started.

    Raises:
        OSError: a directory is not there.
    """
    found: dict[Path, OfflineRun] = {}
    for directory in directories:
        if not directory.is_dir():
            raise NotADirectoryError(f"no directory {directory}: name one that holds run directories")
        for log in directory.rglob("offline-run-*/run-*.wandb"):
            # A directory whose name begins with a dot is about to be deleted.
            if not any(part.startswith(".") for part in log.relative_to(directory).parts):
                found[log.resolve()] = OfflineRun(log, log.parent.parent.parent)
    return sorted(found.values(), key=lambda run: (run.log.parent.name, run.log))


def push(run: OfflineRun, entity: str | None, project: str | None, seconds: float) -> str | None:
    """Push one run with ``wandb sync``, which marks it as pushed; return what went wrong, in one line, or None.

    Args:
        run: to push.
        entity: where to, instead of where the run says.
        project: likewise.
        seconds: to wait at most.
    """
    gone = next((path for path in _needed(run.log.parent) if not Path(path).is_file()), None)
    if gone:
        return f"{gone} is gone: put it back, or push from the place where the run was made"
    options = [*(["--entity", entity] if entity else []), *(["--project", project] if project else [])]
    command = [sys.executable, "-m", "wandb", "sync", *options, str(run.log.parent)]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            # WANDB_DIR is for its own logs, which would be in the working directory. The run's id is in its log.
            env={
                **{name: value for name, value in os.environ.items() if name not in OF_ONE_RUN},
                "WANDB_DIR": str(run.directory.absolute()),
            },
        )
    except subprocess.TimeoutExpired:
        return f"not done within {seconds:.0f} s; what is missing is pushed next time"
    output = done.stdout.decode(errors="replace")
    told = [" ".join(line.split()) for line in _TOLD.findall(output)]
    if told:
        return told[0]
    if done.returncode or run.state != "pushed":
        last = output.strip().splitlines()[-1:]
        return last[0].removeprefix("wandb: ") if last else f"wandb sync ended with {done.returncode}"
    return None


def note_needed(run: Path, files: Sequence[str]) -> None:
    """Remember in W&B's directory of a run which files pushing it will need.

    W&B's log names them by absolute path, and ``wandb sync`` counts a run as pushed without those it can't find.
    """
    (run / _NEEDED).write_text(json.dumps(list(files)), encoding="utf-8")


def _needed(run: Path) -> list[str]:
    try:
        return [str(path) for path in json.loads((run / _NEEDED).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []


def _running(directory: Path) -> bool:
    """Tell whether a process is still writing into a run directory; one on another host is believed to be."""
    try:
        status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
        if status["status"] != "running":
            return False
        if status["host"] != socket.gethostname():
            return True
        os.kill(int(status["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True
