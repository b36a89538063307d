"""Blind rating: ``python -m persona_prune.rate RUN...`` writes the page, with ``--ratings`` it reads what came back."""

import argparse
import os
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from persona_prune.common import cli
from persona_prune.common.text_files import write_text
from persona_prune.rate.ballots import Sheet, sheet
from persona_prune.rate.figures import Share, agreements, groups, preference, with_judges
from persona_prune.rate.page import page
from persona_prune.rate.ratings import Rater, read_raters
from persona_prune.saved.finished_runs import Found, Run, find_runs


def main(arguments: Sequence[str]) -> int:
    """Write the page, or print what ratings say; return the exit code."""
    return cli.run(lambda: _rate(_parser().parse_args(arguments)))


def _rate(options: argparse.Namespace) -> None:
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    found: Found = find_runs(options.directories)
    for path, reason in found.left_out:
        print(f"left out: {path}: {reason}", file=sys.stderr)
    asked = sheet(found.runs, seed=options.seed, limit=options.limit, against=options.against)
    if options.ratings:
        print(*_report(found.runs, asked, read_raters(options.ratings, asked)), sep="\n")
        return
    output: Path = options.output.absolute()
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a directory; name a file in it")
    write_text(output, page(asked))
    print(f"{_count(len(asked.ballots), 'ballot')}: {output}")
    print(*_not_asked(found.runs, asked), sep="\n", end="\n" if any(asked.same.values()) else "")
    print(f"open it in a browser, rate, export; then: {_command(options)} --ratings FILE [FILE ...]")


def _command(options: argparse.Namespace) -> str:
    words = ["python", "-m", "persona_prune.rate", *map(str, options.directories), "--seed", str(options.seed)]
    words += [] if options.limit is None else ["--limit", str(options.limit)]
    words += [word for name in options.against for word in ("--against", name)]
    return shlex.join(words)


def _not_asked(runs: Sequence[Run], asked: Sheet) -> Iterable[str]:
    for (number, opponent), same in asked.same.items():
        if same:
            yield f"not asked: {_where(runs[number])}, {opponent}: {_count(same, 'prompt')} with the same answer twice"


def _report(runs: Sequence[Run], asked: Sheet, raters: Sequence[Rater]) -> Iterable[str]:
    for rater in raters:
        yield _rater_line(asked, rater)
    yield ""
    for (number, opponent), ballots in groups(asked).items():
        found = preference(ballots, raters)
        if found is None:
            yield f"{_where(runs[number])}, persona against {opponent}: no ratings"
            continue
        how_many = f"{_count(found.ratings, 'rating')} of {_count(found.prompts, 'prompt')}"
        yield f"{_where(runs[number])}, persona against {opponent}: {how_many} by {_count(found.raters, 'rater')}"
        preferred = "-, all is nonsense" if found.preferred is None else f"{_share(found.preferred)}, p = {found.p:.2g}"
        yield f"  persona preferred      {preferred}; ties {found.ties:.0%}, nonsense {found.nonsense:.0%}"
        judges = with_judges(ballots, raters)
        if judges is None:
            yield "  agrees with the judges -, no decided rating on a prompt where they lean to one side"
        else:
            yield (
                f"  agrees with the judges {_share(judges.agreed)}, {_kappa(judges.kappa)}, "
                f"{_count(judges.ratings, 'decided rating')}; of these the judges give the persona {judges.judges:.0%}"
            )
        auc = runs[number].metrics.get("speech/judge_auc")
        if auc is not None:
            yield f"                         the judges' AUC on written answers is {auc:.2f}"
    yield from _not_asked(runs, asked)
    yield ""
    if len(raters) > 1:
        yield from _agreement_lines(asked, raters)
        yield ""
    yield (
        "preferred: ties count half, nonsense is left out; brackets: 95% bootstrap interval over prompts; p: exact sign"
        " test over prompts.\njudges: their mean over all answers to a prompt, the persona's against the other's, not"
        " over the shown answer alone."
    )


def _rater_line(asked: Sheet, rater: Rater) -> str:
    choices = [rating.choice for rating in rater.ratings.values()]
    decided = [choice for choice in choices if choice in ("1", "2")]
    first = f", answer 1 in {decided.count('1')} of {len(decided)} decided" if decided else ""
    median = statistics.median(rating.seconds for rating in rater.ratings.values())
    return f"{rater.name}: {len(choices)} of {_count(len(asked.ballots), 'ballot')}, median {median:.1f} s each{first}"


def _agreement_lines(asked: Sheet, raters: Sequence[Rater]) -> Iterable[str]:
    found = agreements(asked, raters)
    if not found:
        yield "agreement between raters: no ballot was rated by two"
    for one in found:
        yield (
            f"{' and '.join(one.names)}: {_kappa(one.kappa)}, the same choice on {one.same:.0%} of "
            f"{_count(one.ballots, 'ballot')}"
        )
    kappas = [one.kappa for one in found if one.kappa is not None]
    if len(found) > 1 and kappas:
        yield f"mean of {len(kappas)} pairs of raters: {_kappa(statistics.fmean(kappas))}"


def _where(run: Run) -> str:
    here = Path.cwd()
    return os.path.relpath(run.path, here) if run.path.is_relative_to(here) else str(run.path)


def _share(share: Share) -> str:
    return f"{share.mean:.2f} [{share.low:.2f}, {share.high:.2f}]"


def _kappa(kappa: float | None) -> str:
    return "kappa undefined (one choice throughout)" if kappa is None else f"kappa {kappa:.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m persona_prune.rate",
        description="Blind rating of what runs say: writes one HTML page to open offline, which shows the persona's "
        "answer beside another one without saying which is which. With --ratings: prints what raters preferred.",
    )
    parser.add_argument(
        "directories", nargs="+", type=Path, metavar="RUN", help="run directories, or directories that hold some"
    )
    parser.add_argument("--output", type=Path, default=Path("rate.html"), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=42, help="decides prompts, order and sides; default: %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many prompts of each run")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="ARM",
        help="dense, with_prompt, or a control that spoke (repeatable); default: dense, and with_prompt where it spoke",
    )
    parser.add_argument("--ratings", nargs="+", type=Path, metavar="FILE", help="JSON that the page exported")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
