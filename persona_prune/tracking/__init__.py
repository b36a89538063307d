"""Experiment trackers. Weights & Biases is the only one; ``tracker=none`` keeps everything in the run directory."""

from persona_prune.tracking.base import NoTracker, RunInfo, TrackedRun, Tracker
from persona_prune.tracking.wandb_tracker import WandbTracker

__all__ = ["NoTracker", "RunInfo", "TrackedRun", "Tracker", "WandbTracker"]
