"""A process that a launcher started for jobs of a sweep: its lines are told apart, and it takes its share only."""

import itertools
import logging
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

_held: list[FileLock] = []  # as long as this process lives


class _Numbered(logging.Formatter):
    """Puts a job's number before every line, since lines of several jobs come mixed."""

    number = 0

    def format(self, record: logging.LogRecord) -> str:
        return textwrap.indent(super().format(record), f"#{self.number} ")


def log_to_terminal(formatter: logging.Formatter | None = None, *, level: int = logging.INFO) -> None:
    """Show this package's messages of ``level`` and above on stderr; everything else goes to the run's log file."""
    handler = logging.StreamHandler()
    handler.setLevel(level)
    handler.setFormatter(formatter)
    package = logging.getLogger("persona_prune")
    package.setLevel(level)
    package.addHandler(handler)


def prepare(number: int, cores: int | None, slots: Path) -> None:
    """Set up this process for job ``number``, unless it is the one that the user started.

    Args:
        number: the job's number in the sweep.
        cores: CPU cores that the launcher gives a job; None where it sets the number of threads itself.
        slots: a directory that all processes of the sweep share, by which they agree on who takes which GPU.
    """
    package = logging.getLogger("persona_prune")
    if not package.handlers:
        log_to_terminal(_Numbered("%(message)s"))
        if cores is not None:
            torch.set_num_threads(cores)
        if torch.cuda.device_count() > 1:
            torch.cuda.set_device(_slot(slots) % torch.cuda.device_count())
    for handler in package.handlers:
        if isinstance(handler.formatter, _Numbered):
            handler.formatter.number = number


def stop() -> None:
    """Stop what a launcher may have left running, so that statuses are final."""
    ray: Any = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def _slot(directory: Path) -> int:
    """Return the smallest number that no living process of the sweep has taken."""
    for number in itertools.count():
        lock = FileLock(directory / f"slot-{number}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        _held.append(lock)
        return number
    raise AssertionError("unreachable")
