"""The protocol of a tracker, and the one that does nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic.dataclasses import dataclass

from persona_prune.common.validation import STRICT


@plain_dataclass(frozen=True)
class RunInfo:
    """What a tracker is told when a run starts.

    Attributes:
        name: model, persona, method, sparsity and seed.
        group: the study.
        job_type: the method.
        tags: words to filter by.
        config: the composed configuration.
        config_hash: tells runs of the same name apart.
        directory: where the run leaves its files.
        one_of_several: whether it is a job of a sweep, so that what the environment says of one run isn't meant.
    """

    name: str
    group: str
    job_type: str
    tags: Sequence[str]
    config: Mapping[str, Any]
    config_hash: str
    directory: Path
    one_of_several: bool


class TrackedRun(Protocol):
    """One run that is being tracked."""

    def finish(self, metrics: Mapping[str, float], made_from: Sequence[Path]) -> None:
        """Log the final figures and what the run directory holds by now, and close the run as successful.

        ``made_from`` are the files that the persona was made from: statistics, or another persona file. A tracker
        that fails says so in the log; the figures are on disk already.
        """

    def fail(self, reason: str) -> None:
        """Close the run as failed, with the reason in one line."""


class Tracker(Protocol):
    """What a YAML in ``conf/tracker`` builds."""

    def check(self, study: str) -> None:
        """Raise ValueError, in one line, for what would keep a run of ``study`` from being tracked."""

    def start(self, run: RunInfo) -> TrackedRun:
        """Begin a run.

        Raises:
            OSError: the user asked for what the tracker can't do now.
        """


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoTracker:
    """Track nothing (``tracker=none``)."""

    def check(self, study: str) -> None:
        """Find nothing."""

    def start(self, run: RunInfo) -> TrackedRun:
        """Return a run that ignores what it is told."""
        return _Untracked()


class _Untracked:
    def finish(self, metrics: object, made_from: object) -> None:
        pass

    def fail(self, reason: object) -> None:
        pass
