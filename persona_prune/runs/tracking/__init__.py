"""Experiment trackers. Weights & Biases is the only one; ``tracker=none`` keeps everything in the run directory."""

from persona_prune.runs.tracking.base import NoTracker, RunInfo, TrackedRun, Tracker
from persona_prune.runs.tracking.wandb_tracker import WandbTracker

__all__ = ["NoTracker", "RunInfo", "TrackedRun", "Tracker", "WandbTracker"]
