"""What ratings say: preference for the persona, and how far raters agree with each other and with the judges."""

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from persona_prune.evaluators.statistics import bootstrap_interval, mcnemar
from persona_prune.rate.ballots import Ballot, Sheet
from persona_prune.rate.ratings import Choice, Rater

_WORTH = {"persona": 1.0, "tie": 0.5, "other": 0.0}  # nonsense says nothing of who was preferred
_JUDGED = {1.0: "persona", -1.0: "other"}


@dataclass(frozen=True)
class Share:
    """A mean with its 95% bootstrap interval over prompts."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Preference:
    """How raters chose between the persona and one opponent.

    Attributes:
        ratings, prompts, raters: how many.
        preferred: preference for the persona: ties half, nonsense left out; None where all is nonsense.
        p: exact two-sided sign test over prompts, each with the sign of its mean over raters.
        ties, nonsense: shares of the ratings.
    """

    ratings: int
    prompts: int
    raters: int
    preferred: Share | None
    p: float
    ties: float
    nonsense: float


@dataclass(frozen=True)
class WithJudges:
    """How raters agree with the judges, over ratings that chose a side on prompts where the judges lean to one.

    Attributes:
        ratings: how many.
        agreed: share in which the preferred answer is the one whose arm the judges give more.
        kappa: the same beyond chance (Cohen); None where both always chose the same.
        judges: share of these ratings on whose prompts the judges lean to the persona.
    """

    ratings: int
    agreed: Share
    kappa: float | None
    judges: float


@dataclass(frozen=True)
class Agreement:
    """Of two raters: ballots that both rated, share with the same choice (of four), Cohen's kappa."""

    names: tuple[str, str]
    ballots: int
    same: float
    kappa: float | None


def chosen(ballot: Ballot, choice: Choice) -> str:
    """Return who was chosen: persona, other, tie or nonsense."""
    if choice in ("tie", "nonsense"):
        return choice
    return "persona" if (choice == "1") == ballot.persona_first else "other"


def preference(ballots: Sequence[Ballot], raters: Sequence[Rater]) -> Preference | None:
    """Return what raters preferred on ballots of one run and opponent; None where none was rated."""
    rated = list(_rated(ballots, raters))
    if not rated:
        return None
    said = [who for _, who in rated]
    worth = [(prompt.prompt, _WORTH[who]) for prompt, who in rated if who in _WORTH]
    by_prompt: dict[str, list[float]] = {}
    for prompt, value in worth:
        by_prompt.setdefault(prompt, []).append(value - 0.5)
    return Preference(
        ratings=len(rated),
        prompts=len({ballot.prompt for ballot, _ in rated}),
        raters=sum(any(ballot.id in rater.ratings for ballot in ballots) for rater in raters),
        preferred=_share(worth) if worth else None,
        p=mcnemar(np.array([np.sign(np.mean(values)) for values in by_prompt.values()])),
        ties=said.count("tie") / len(said),
        nonsense=said.count("nonsense") / len(said),
    )


def with_judges(ballots: Sequence[Ballot], raters: Sequence[Rater]) -> WithJudges | None:
    """Return how raters and judges agree on ballots of one run and opponent; None where there is nothing to compare."""
    pairs = [
        (ballot.prompt, who, _JUDGED[np.sign(ballot.judged[0] - ballot.judged[1])])
        for ballot, who in _rated(ballots, raters)
        if who in ("persona", "other") and ballot.judged is not None and ballot.judged[0] != ballot.judged[1]
    ]
    if not pairs:
        return None
    return WithJudges(
        ratings=len(pairs),
        agreed=_share([(prompt, float(who == judged)) for prompt, who, judged in pairs]),
        kappa=_kappa([who for _, who, _ in pairs], [judged for _, _, judged in pairs]),
        judges=float(np.mean([judged == "persona" for _, _, judged in pairs])),
    )


def agreements(sheet: Sheet, raters: Sequence[Rater]) -> list[Agreement]:
    """Return the agreement of every two raters that rated a ballot both."""
    found = []
    for first, second in itertools.combinations(raters, 2):
        both = [ballot for ballot in sheet.ballots if ballot.id in first.ratings and ballot.id in second.ratings]
        if both:
            ours, theirs = ([chosen(one, rater.ratings[one.id].choice) for one in both] for rater in (first, second))
            same = float(np.mean([a == b for a, b in zip(ours, theirs, strict=True)]))
            found.append(Agreement((first.name, second.name), len(both), same, _kappa(ours, theirs)))
    return found


def groups(sheet: Sheet) -> Mapping[tuple[int, str], list[Ballot]]:
    """Return the ballots by run and opponent, in order of the runs; also those where nothing was asked."""
    found: dict[tuple[int, str], list[Ballot]] = {key: [] for key in sheet.same}
    for ballot in sheet.ballots:
        found[ballot.run, ballot.opponent].append(ballot)
    return found


def _rated(ballots: Sequence[Ballot], raters: Sequence[Rater]) -> Iterable[tuple[Ballot, str]]:
    for ballot in ballots:
        for rater in raters:
            if ballot.id in rater.ratings:
                yield ballot, chosen(ballot, rater.ratings[ballot.id].choice)


def _share(values: Sequence[tuple[str, float]]) -> Share:
    numbers = np.array([value for _, value in values])
    prompts = np.unique([prompt for prompt, _ in values], return_inverse=True)[1]
    return Share(float(numbers.mean()), *bootstrap_interval(numbers, prompts))


def _kappa(ours: Sequence[str], theirs: Sequence[str]) -> float | None:
    """Return Cohen's kappa; None where it is undefined, as both always chose the same."""
    from sklearn.metrics import cohen_kappa_score  # takes its time

    if len({*ours, *theirs}) == 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kappa = float(cohen_kappa_score(ours, theirs))
    return kappa if np.isfinite(kappa) else None
