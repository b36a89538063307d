"""Weights & Biases, as far as it can be set up without importing it: that takes a second, which ``none`` is spared."""

import logging
import os
from typing import Literal

from pydantic.dataclasses import dataclass

from persona_prune.common.validation import STRICT, PositiveInt
from persona_prune.runs.tracking.base import NoTracker, RunInfo, TrackedRun

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WandbTracker:
    """Weights & Biases, one run a job, grouped by study.

    Attributes:
        project: where runs go.
        entity: user or team; None for the account's default one.
        mode: ``auto`` is online if an API key is configured (``WANDB_API_KEY`` or ``wandb login``) and the server can
            be reached, and offline otherwise; ``WANDB_MODE`` decides before it. It never asks.
        tags: added to model, persona and method.
        artifacts: whether the persona file, and the statistics it was made from, are logged too.
        finish_timeout: seconds to wait at the end of an online run for uploads.
    """

    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline", "disabled"]
    tags: list[str]
    artifacts: bool
    finish_timeout: PositiveInt

    def start(self, run: RunInfo) -> TrackedRun:
        """Start a W&B run whose files are in the run directory.

        Raises:
            OSError: online was asked for, and W&B can't be reached or refuses the account.
        """
        mode: str = self.mode
        if mode == "auto":
            wanted = os.environ.get("WANDB_MODE", "")
            mode = wanted if wanted in ("online", "offline", "disabled") else mode
        if mode == "disabled":
            return NoTracker().start(run)
        from persona_prune.runs.tracking import wandb_run

        if mode == "auto":
            mode = "online" if wandb_run.logged_in() else "offline"
        if mode == "online" and (problem := wandb_run.unreachable()):
            if self.mode == "online":
                raise OSError(f"tracker.mode=online: {problem}; tracker.mode=offline logs to the run directory")
            log.warning("%s: going on offline", problem)
            mode = "offline"
        return wandb_run.start(
            run,
            project=self.project,
            entity=self.entity,
            mode=mode,
            tags=self.tags,
            artifacts=self.artifacts,
            finish_timeout=self.finish_timeout,
        )
