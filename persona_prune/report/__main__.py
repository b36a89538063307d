"""Compare finished runs: ``python -m persona_prune.report DIR... [--output DIR]``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from persona_prune.common import cli
from persona_prune.common.text_files import write_text
from persona_prune.report.comparison import comparison
from persona_prune.saved.finished_runs import find_runs

_SHOWN = 5


def main(arguments: Sequence[str]) -> int:
    """Write the comparison and say where it is; return the exit code."""
    return cli.run(lambda: _compare(_parser().parse_args(arguments)))


def _compare(options: argparse.Namespace) -> None:
    directories: list[Path] = options.directories
    output = (options.output or directories[0] / "comparison").absolute()
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"--output {output} is not a directory")
    found = find_runs(directories)
    files = comparison(found, output.resolve())
    output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_text(output / name, content)
    for path, reason in found.left_out[:_SHOWN]:
        print(f"left out: {path}: {reason}", file=sys.stderr)
    if len(found.left_out) > _SHOWN:
        print(f"left out: {len(found.left_out) - _SHOWN} more, listed in the page", file=sys.stderr)
    first, *others = files
    count = "1 run" if len(found.runs) == 1 else f"{len(found.runs)} runs"
    print(f"{count}: {output / first} (and {', '.join(others)})")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m persona_prune.report",
        description="Compare finished runs: one self-contained HTML page with plots, a table to sort and filter, "
        "and the items that two runs differ in; the same figures as runs.csv and tables.tex.",
    )
    parser.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="run directories, or directories that hold some"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="for the files, which link to the runs; default: comparison/ in the first DIR",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
