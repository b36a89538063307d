"""Checking persona pairs: ``python -m persona_prune.check_pairs FILE [OTHER_FILE ...]`` or ``--embedded NAME|all``.

Exit code: 0, also with warnings; 1 with an error, and with ``--strict`` a warning; 2 where a file can't be read.
"""

import argparse
import json
import logging
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from persona_prune.check_pairs.pair_quality import (
    RULES,
    Finding,
    Guess,
    Place,
    PlacedPair,
    Quality,
    assess,
    first_words,
    mentions,
)
from persona_prune.common import cli
from persona_prune.common.row_files import file_rows
from persona_prune.personas.pair_files import EMBEDDED, read_pairs
from persona_prune.personas.pairs import normalise

_WIDTH, _COLUMNS, _SHOWN = 100, 3, 5
_SPLITS = ("calibration.jsonl", "test.jsonl")
_ALARM = "* above 0.65 with p < 0.05: a shortcut"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report and return the exit code."""
    # The report counts the rows left out: without a handler of its own the package's warning would be on stderr too.
    logging.getLogger("persona_prune").addHandler(logging.NullHandler())
    options = _options(arguments)
    return cli.run(lambda: _assess(options))


def _assess(options: argparse.Namespace) -> int:
    sets = _sets(options.embedded, options.files)
    checked = {name: _check(files, options.name) for name, files in sets.items()}
    if options.json:
        reports = {name: _as_json(*found) for name, found in checked.items()}
        print(json.dumps({"sets": reports} if options.embedded == "all" else next(iter(reports.values())), indent=2))
    elif options.embedded == "all":
        print(*_overview({name: quality for name, (_, _, quality) in checked.items()}), sep="\n")
    else:
        print(*_report(*next(iter(checked.values()))), sep="\n")
    levels = {finding.severity for _, _, quality in checked.values() for finding in quality.findings}
    return int("error" in levels or (options.strict and "warning" in levels))


def read_rows(path: Path, file: str) -> tuple[list[PlacedPair], dict[str, list[Place]]]:
    """Return the pairs that `read_pairs` finds in ``path``, with their lines, and the rows it leaves out, by reason.

    Raises:
        ValueError: the file is malformed, or has no pairs.
        OSError: there is no such file.
    """
    pairs = list(read_pairs(path))[::-1]
    rows: list[PlacedPair] = []
    left_out: dict[str, list[Place]] = {}
    for line, fields in file_rows(path.expanduser()):
        texts: dict[str, str] = {"prompt": fields["prompt" if "prompt" in fields else "question"]}
        texts |= {side: fields[side] for side in ("matching", "not_matching")}
        if pairs and texts == {key: getattr(pairs[-1], key) for key in texts}:
            rows.append(PlacedPair(file, line, pairs.pop()))
        else:
            empty = [key for key, text in texts.items() if not text.strip()]
            reason = f"no {empty[0]}" if empty else "both answers are the same"
            left_out.setdefault(reason, []).append((file, line))
    return rows, left_out


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m persona_prune.check_pairs", description="Find what gives the matching answers of pairs away."
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="pair files that belong together")
    parser.add_argument("--embedded", metavar="NAME", help="an embedded set instead, or 'all' for a table of them")
    parser.add_argument("--name", action="append", default=[], help="a name of the persona (repeatable)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 on warnings too")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    options = parser.parse_args(arguments)
    if bool(options.files) == bool(options.embedded):
        parser.error("give pair files, or --embedded NAME")
    if not all(name.strip() for name in options.name):
        parser.error("--name must not be empty")
    return options


def _sets(embedded: str | None, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return set -> its files; raise ValueError if there is no such embedded set or a file is given twice."""
    if embedded is None:
        paths = [path.expanduser() for path in files]
        twice = [str(path) for path in paths if [other.resolve() for other in paths].count(path.resolve()) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is given twice: every prompt would count as a leak")
        return {"": paths}
    known = sorted(d.name for d in EMBEDDED.iterdir() if all((d / file).is_file() for file in _SPLITS))
    if embedded not in ("all", *known):
        raise ValueError(f"no embedded set {embedded!r}; there are: {', '.join(known)}")
    return {name: [EMBEDDED / name / file for file in _SPLITS] for name in known if embedded in ("all", name)}


def _check(paths: Sequence[Path], names: Sequence[str]) -> tuple[list[PlacedPair], dict[str, list[Place]], Quality]:
    short = [path.name for path in paths]
    rows: list[PlacedPair] = []
    left_out: dict[str, list[Place]] = {}
    for path in paths:
        own, bad = read_rows(path, path.name if short.count(path.name) == 1 else str(path))
        rows += own
        for reason, places in bad.items():
            left_out.setdefault(reason, []).extend(places)
    return rows, left_out, assess(rows, left_out, names)


def _report(rows: Sequence[PlacedPair], left_out: Mapping[str, Sequence[Place]], quality: Quality) -> Iterable[str]:
    for file in dict.fromkeys(row.file for row in rows):
        own = [row for row in rows if row.file == file]
        gone = [f"line {line} ({why})" for why, places in left_out.items() for at, line in places if at == file]
        yield from _wrapped(f"{file}: {len(own)} pairs, rows left out: {len(gone)}", _cut(gone))
    yield ""
    scopes = list(quality.measures)
    for start in range(0, len(scopes), _COLUMNS):
        yield from _table(quality, scopes[start : start + _COLUMNS])
    yield _ALARM
    yield ""
    counts = first_words([row.pair for row in rows])
    first = [f"{word or '(none)'} {ours}:{theirs}" for word, (ours, theirs) in list(counts.items())[:10]]
    yield from _wrapped("First words, matching:other", first)
    for side, words in zip(("for matching", "against"), quality.words):
        yield from _wrapped(f"Words that weigh {side}", [f"{word} {weight:+.1f}" for word, weight in words.items()])
    for name, found in quality.named.items():
        parts = [mentions(row.pair, name) for row in found]
        yield from _wrapped(
            f"Trait name {name!r}", [f"{sum(p[k] for p in parts)} {k}" for k in ("prompt", "matching", "not_matching")]
        )
    yield from _wrapped("Repeats", [f"{label} {len(quality.repeats[kind])}" for kind, label in _REPEATS.items()])
    yield ""
    yield "To mend, the worst first:" if quality.findings else "Nothing to mend."
    several = len({row.file for row in rows}) > 1
    for finding in quality.findings:
        yield from _sentence(finding, several)


_REPEATS = {
    "leaks": "prompts in several files",
    "swapped": "prompts with the poles swapped",
    "duplicates": "duplicate prompts",
    "near": "near-duplicate prompts",
    "answers": "answers in several rows",
}


def _table(quality: Quality, scopes: Sequence[str]) -> Iterable[str]:
    def line(label: str, cells: Iterable[str]) -> str:
        return (f"{label:<24}" + "".join(f"{cell:>25}" for cell in cells)).rstrip()

    measures = [quality.measures[scope] for scope in scopes]
    yield line("", (s if len(s) < 25 else f"...{s[-21:]}" for s in map(_printable, scopes)))
    yield line("pairs", (f"{own.figures['pairs']:.0f}" for own in measures))
    for unit in ("words", "characters"):
        means = [(own.figures[f"{unit}_matching"], own.figures[f"{unit}_not_matching"]) for own in measures]
        yield line(f"{unit}, both sides", (f"{ours:.1f} / {theirs:.1f}" for ours, theirs in means))
        leads = [own.guesses[f"longer, {unit}"].leads for own in measures]
        yield line("  matching is longer", (f"{(lead > 0).mean():.0%}" for lead in leads))
    yield line("same first word", (f"{own.figures['same_first_word']:.0%}" for own in measures))
    yield line("one yes, the other no", (f"{own.figures['yes_no']:.0%}" for own in measures))
    yield "Accuracy of a guess by one trait [95% interval], p against chance (0.50):"
    for rule in (rule for family in RULES.values() for rule in family):
        yield line(rule, (_cell(own.guesses.get(rule)) for own in measures))


def _cell(guess: Guess | None) -> str:
    if guess is None:
        return "too few"
    low, high = guess.interval
    star = "*" if guess.alarming else " "
    return f"{guess.accuracy:.2f}{star}[{low:.2f}, {high:.2f}] {_p(guess.p)}"


def _p(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0").rjust(5)


def _sentence(finding: Finding, several: bool) -> list[str]:
    places = [[f"{file}:{line}" if several else str(line) for file, line in group] for group in finding.places]
    groups = ["=".join(group[:3]) + ("=..." if len(group) > 3 else "") for group in places]
    return _wrapped(f"{finding.severity}: {finding.message}: {finding.fix}; line", _cut(groups), "")


def _cut(items: Sequence[str]) -> list[str]:
    return [*items[:_SHOWN], *([f"and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else [])]


def _wrapped(label: str, items: Sequence[str], colon: str = ":") -> list[str]:
    text = _printable(f"{label}{colon} {', '.join(items)}" if items else label)
    return textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _printable(text: str) -> str:
    """Write characters that a terminal would act on or refuse as escapes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _overview(qualities: Mapping[str, Quality]) -> Iterable[str]:
    titles = ("pairs", "longer, words", "characters", "first word", "bag of words", "duplicates", "leaks")
    yield f"{'set':<20}" + "".join(f"  {title}" for title in titles)
    for name, quality in qualities.items():
        *_, whole = quality.measures.values()
        rules = ("longer, words", "longer, characters", "first word", "bag of words")
        guesses = [whole.guesses.get(rule) for rule in rules]
        repeated = [len(quality.repeats[kind]) for kind in ("duplicates", "swapped", "leaks")]
        cells = [f"{whole.figures['pairs']:.0f}"]
        cells += ["too few" if g is None else f"{g.accuracy:.2f}{'*' if g.alarming else ''}" for g in guesses]
        cells += [str(repeated[0] + repeated[1]), str(repeated[2])]
        yield f"{name:<20}" + "".join(f"  {cell:>{len(title)}}" for cell, title in zip(cells, titles))
    yield _ALARM


def _as_json(rows: Sequence[PlacedPair], left_out: Mapping[str, Sequence[Place]], quality: Quality) -> dict[str, Any]:
    pairs = [row.pair for row in rows]
    return {
        "pairs": len(rows),
        "prompts": len({normalise(pair.prompt) for pair in pairs}),
        "left_out": left_out,
        "measures": {
            scope: {**own.figures, "accuracy": {rule: _guess_json(guess) for rule, guess in own.guesses.items()}}
            for scope, own in quality.measures.items()
        },
        "first_words": first_words(pairs),
        "words": {"for": quality.words[0], "against": quality.words[1]},
        "names": {name: [(row.file, row.line) for row in found] for name, found in quality.named.items()},
        "repeats": {kind: [[(r.file, r.line) for r in g] for g in groups] for kind, groups in quality.repeats.items()},
        "findings": [vars(finding) for finding in quality.findings],
    }


def _guess_json(guess: Guess) -> dict[str, object]:
    return {"accuracy": guess.accuracy, "interval": guess.interval, "p": guess.p, "shortcut": guess.alarming}


if __name__ == "__main__":
    sys.exit(main())
