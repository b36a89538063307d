"""The entry point: ``python -m persona_prune.run [--multirun] [key=value ...]``."""

import logging
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from persona_prune.command_line import check_command_line
from persona_prune.config import ConfigError, build, config_directory
from persona_prune.experiment import run_experiment

_failed: list[str] = []


@hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")
def _job(cfg: DictConfig) -> float | None:
    """Run one job; a failed one is recorded, so that the others of a sweep still run."""
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    plan = build(cfg, sweep=sweep)
    outcome = run_experiment(plan, list(hydra_config.overrides.task), skip_done=sweep)
    if outcome.error is not None:
        _failed.append(f"{plan.directory}: {outcome.error}")
    return outcome.objective


def main() -> int:
    """Check the command line, run the job or the sweep, and return the exit code: 0 done, 1 failed, 2 bad input."""
    _log_to_terminal()
    try:
        check_command_line(sys.argv[1:])
    except ConfigError as error:
        print(*(f"error: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return 2
    try:
        _job()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 1 if _failed else 0


def _log_to_terminal() -> None:
    """Show this package's messages on stderr; everything else goes to the run's log file only."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO)
    package = logging.getLogger("persona_prune")
    package.setLevel(logging.INFO)
    package.addHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
