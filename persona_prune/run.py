"""The entry point: ``python -m persona_prune.run [-v] [--multirun] [key=value ...]``."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from persona_prune.common import interrupts
from persona_prune.common.conf_files import config_directory
from persona_prune.common.errors import one_line
from persona_prune.runs import completion, sweep_worker
from persona_prune.runs.command_line import Checked, check_command_line
from persona_prune.runs.directory import INTERRUPTED
from persona_prune.runs.dry_run import preview
from persona_prune.runs.experiment import run_experiment
from persona_prune.runs.instantiating import ConfigError
from persona_prune.runs.overrides import arguments_of, quoted, read_options
from persona_prune.runs.plan import build
from persona_prune.runs.sweep import RECORDS, Records, Sweep, planned, run_job

log = logging.getLogger("persona_prune.run")

_failed: list[str] = []


@hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")
def _job(cfg: DictConfig) -> float | None:
    """Run one job, in this process or one that a launcher started; return what a searching sweeper maximises."""
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    plan = build(cfg, sweep=sweep)
    overrides = list(hydra_config.overrides.task)
    if not sweep:
        outcome = run_experiment(plan, overrides, skip_done=False)
        if outcome.error is not None:
            _failed.append(outcome.error)
        return None
    records = Records(Path(os.environ[RECORDS]))
    sweep_worker.prepare(hydra_config.job.num, hydra_config.launcher.get("cpus_per_task"), records.directory)
    result = run_job(plan, overrides, hydra_config.job.num, records)
    return plan.sweep.value(result.metrics) if result is not None else None


def main() -> int:
    """Check the command line, run the job or the sweep, and return the exit code.

    0: done; 1: something failed; 2: bad input; 130: interrupted.
    """
    verbose = "-v" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "-v"]  # Hydra knows no such option
    sweep_worker.log_to_terminal(level=logging.DEBUG if verbose else logging.INFO)
    interrupts.listen()
    try:
        given = sys.argv[1:]
        checked = check_command_line(given)
        if checked is None:
            _ask_hydra(given)
            return 0
        if checked.sweep.dry_run:
            print(*preview(checked.jobs, complete=checked.complete), sep="\n")
            return 0
        sys.argv[1:] = checked.arguments
        if checked.multirun:
            return _run_sweep(checked, given)
        _job()
    except ConfigError as error:
        print(*(f"error: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 1 if _failed else 0


def _ask_hydra(given: Sequence[str]) -> None:
    """Have Hydra print what is asked for: help, a configuration, completions."""
    options = read_options(given)
    sys.argv[1:] = arguments_of(options, options.overrides)
    if options.shell_completion and completion.answer(options.overrides):
        return
    _job()


def _run_sweep(checked: Checked, given: Sequence[str]) -> int:
    jobs = [planned(number, *job) for number, job in enumerate(checked.jobs)]
    sweep = Sweep(jobs, complete=checked.complete, command=given)
    sys.argv.append(
        f"++hydra.job.env_set.{RECORDS}={quoted(str(sweep.records.directory))}"
    )  # reaches workers on other machines too
    traceback_wanted = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # an exception for us instead of a traceback for the user
    if checked.parallel:
        os.environ["TQDM_DISABLE"] = "1"
    with _opened(sweep):
        try:
            _job()
        except Exception as error:
            sweep.ended_early = True
            log.error("error: the sweep ended early: %s", one_line(error), exc_info=error if traceback_wanted else None)
        finally:
            sweep_worker.stop()
    return 1 if sweep.failed else 0


@contextmanager
def _opened(sweep: Sweep) -> Iterator[None]:
    """Open the sweep; where it can't write down that it begins, that is bad input: another place is needed."""
    try:
        with sweep.open():
            yield
    except OSError as error:
        raise ConfigError(
            [f"the sweep can't begin: {one_line(error)}; name another place with output_dir=DIR"]
        ) from None


if __name__ == "__main__":
    sys.exit(main())
