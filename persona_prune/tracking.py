"""Experiment trackers. Weights & Biases is the only one; ``tracker=none`` keeps everything in the run directory."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import wandb
from pydantic.dataclasses import dataclass

from persona_prune.validation import STRICT

log = logging.getLogger(__name__)


@plain_dataclass(frozen=True)
class RunInfo:
    """What a tracker is told when a run starts."""

    name: str
    group: str
    job_type: str
    tags: Sequence[str]
    config: Mapping[str, Any]
    directory: Path


class TrackedRun(Protocol):
    """One run that is being tracked."""

    def finish(
        self,
        metrics: Mapping[str, float],
        samples: Mapping[str, Sequence[Mapping[str, Any]]],
        files: Sequence[Path],
    ) -> None:
        """Log the final figures, the items of each evaluator and the files, and close the run as successful."""

    def fail(self) -> None:
        """Close the run as failed."""


class Tracker(Protocol):
    """What a YAML in ``conf/tracker`` builds."""

    def start(self, run: RunInfo) -> TrackedRun:
        """Begin a run."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoTracker:
    """Track nothing (``tracker=none``)."""

    def start(self, run: RunInfo) -> TrackedRun:
        """Return a run that ignores what it is told."""
        return _Untracked()


class _Untracked:
    def finish(self, metrics: object, samples: object, files: object) -> None:
        pass

    def fail(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WandbTracker:
    """Weights & Biases, one run a job, grouped by study.

    ``mode: auto`` is online if an API key is configured (``WANDB_API_KEY`` or ``wandb login``) and offline otherwise;
    it never asks, and goes on offline if W&B cannot be reached. ``WANDB_MODE`` decides before it.
    """

    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline", "disabled"]
    tags: list[str]

    def start(self, run: RunInfo) -> TrackedRun:
        """Start a W&B run whose files are in the run directory."""
        mode: str = self.mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
        try:
            return self._start(run, mode)
        except wandb.Error as error:
            if self.mode != "auto" or mode != "online":
                raise OSError(f"W&B could not be started: {error}") from error
            log.warning("W&B cannot be reached (%s): going on offline", str(error).splitlines()[0])
            return self._start(run, "offline")

    def _start(self, run: RunInfo, mode: str) -> TrackedRun:
        if mode == "offline":
            log.info("W&B: offline; push later with: wandb sync %s/offline-run-*", run.directory / "wandb")
        wandb_run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=cast(Any, mode),
            dir=run.directory,
            name=run.name,
            group=run.group,
            job_type=run.job_type,
            tags=[*run.tags, *self.tags],
            config=dict(run.config),
            settings=wandb.Settings(silent=True, console="off", quiet=True),
            reinit="create_new",
        )
        return _WandbRun(wandb_run)


class _WandbRun:
    def __init__(self, run: Any) -> None:
        self._run = run

    def finish(
        self,
        metrics: Mapping[str, float],
        samples: Mapping[str, Sequence[Mapping[str, Any]]],
        files: Sequence[Path],
    ) -> None:
        self._run.log({f"samples/{name}": _table(rows) for name, rows in samples.items() if rows})
        self._run.summary.update(dict(metrics))
        if files:
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{self._run.name}-files"), type="run-files")
            for path in files:
                artifact.add_file(str(path))
            self._run.log_artifact(artifact)
        self._run.finish()

    def fail(self) -> None:
        self._run.finish(exit_code=1)


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    flat = [
        {key: value for key, value in row.items() if isinstance(value, (str, int, float))}
        | {f"value/{metric}": value for metric, value in row["values"].items()}
        for row in rows
    ]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    # W&B wants one type per column; ids may be numbers or text.
    data = [[str(row[key]) if key == "id" else row.get(key) for key in columns] for row in flat]
    return wandb.Table(columns=columns, data=data)


def _logged_in() -> bool:
    """Tell whether an API key is configured, without asking for one and without the network."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    return bool(wandb.login(prompt=False, verify=False))
