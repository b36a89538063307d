"""Weights & Biases, as far as it can be set up without importing it: that takes a second, which ``none`` is spared."""

import logging
from typing import Literal

from pydantic.dataclasses import dataclass

from persona_prune.common.validation import STRICT, PositiveInt
from persona_prune.runs.tracking import wandb_limits
from persona_prune.runs.tracking.base import NoTracker, RunInfo, TrackedRun
from persona_prune.runs.tracking.wandb_limits import Entity, Project, Tag

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WandbTracker:
    """Weights & Biases, one run a job, grouped by study.

    Attributes:
        project: where runs go.
        entity: user or team; None for the account's default one.
        mode: ``auto`` is online if an API key is configured (``WANDB_API_KEY`` or ``wandb login``) and the server can
            be reached, and offline otherwise; ``WANDB_MODE`` (in any case; ``dryrun`` is offline) decides before it. It
            never asks.
        tags: added to model, persona and method.
        artifacts: whether the persona file, and the statistics it was made from, are logged too.
        finish_timeout: seconds to wait at the end of an online run for uploads.
    """

    project: Project
    entity: Entity | None
    mode: Literal["auto", "online", "offline", "disabled"]
    tags: list[Tag]
    artifacts: bool
    finish_timeout: PositiveInt

    def check(self, study: str) -> None:
        """Raise ValueError where W&B would refuse the study's name or the environment, now or when it is pushed."""
        if self.mode == "disabled" or (self.mode == "auto" and wandb_limits.wanted_mode() == "disabled"):
            return
        longest = wandb_limits.LONGEST_NAME
        if len(study) > longest:
            raise ValueError(f"study={study}: W&B takes groups of at most {longest} characters; tracker=none takes all")
        wandb_limits.check_environment()

    def start(self, run: RunInfo) -> TrackedRun:
        """Start a W&B run whose files are in the run directory.

        Raises:
            ValueError: ``WANDB_MODE`` is no mode.
            OSError: online was asked for, and W&B can't be reached or refuses the account.
        """
        mode: str = self.mode
        if mode == "auto":
            mode = wandb_limits.wanted_mode() or mode
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
