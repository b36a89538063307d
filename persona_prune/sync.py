"""Push runs that were logged offline to W&B: ``python -m persona_prune.sync [DIR ...] [--dry-run]``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from persona_prune.runs.tracking.pushing import OfflineRun, find_offline_runs, push
from persona_prune.runs.tracking.wandb_limits import check_environment


def main(arguments: Sequence[str] | None = None) -> int:
    """Push what can be pushed, one line a run; return 0 if W&B has every run now, 1 if not, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        runs = find_offline_runs(options.directories)
    except OSError as error:
        return _refused(str(error), 2)
    if not runs:
        print("no offline W&B runs below " + ", ".join(map(str, options.directories)))
        return 0
    waiting = [run for run in runs if run.state == "waiting"]
    pushed_before = sum(run.state == "pushed" for run in runs)
    for run in runs:
        if run.state == "running":
            print(f"running  {run.directory}: not finished, left out")
    if options.dry_run:
        for run in waiting:
            print(f"waiting  {run.directory}")
        print(f"{len(waiting)} to push, {pushed_before} pushed before")
        return 0
    problem = _not_now() if waiting else None
    if problem:
        return _refused(f"{problem} (still to be pushed: {len(waiting)})", 1)
    failed = sum(_failed(run, options) for run in waiting)
    print(f"{len(waiting) - failed} pushed, {failed} failed, {pushed_before} pushed before")
    return 1 if failed else 0


def _failed(run: OfflineRun, options: argparse.Namespace) -> bool:
    problem = push(run, options.entity, options.project, options.timeout)
    print(f"failed   {run.directory}: {problem}" if problem else f"pushed   {run.directory}", flush=True)
    return problem is not None


def _not_now() -> str | None:
    """Return why nothing can be pushed at all, in one line."""
    try:
        check_environment()
    except ValueError as error:
        return str(error)
    from persona_prune.runs.tracking import wandb_run  # it takes a second that --help and --dry-run are spared

    if not wandb_run.logged_in():
        return "not logged in to W&B: run `wandb login`, or set WANDB_API_KEY"
    return wandb_run.unreachable()


def _refused(problem: str, code: int) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m persona_prune.sync", description=__doc__)
    parser.add_argument("directories", metavar="DIR", nargs="*", type=Path, default=[Path("outputs")])
    parser.add_argument("--entity", help="push to this user or team, not where the runs say")
    parser.add_argument("--project", help="push to this project, not where the runs say")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be pushed")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="for a run at most (600)")
    return parser


if __name__ == "__main__":
    os.environ.pop("WANDB_MODE", None)  # offline is how the runs were logged, not how they are pushed
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted: W&B has the runs listed as pushed", file=sys.stderr)
        sys.exit(130)
