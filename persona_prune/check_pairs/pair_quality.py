"""What a stranger could exploit in persona pairs: lengths, first words, vocabulary, names, repeats and leaks."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import binomtest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import FunctionTransformer

from persona_prune.evaluators.statistics import Floats
from persona_prune.personas.pairs import Pair, normalise

Place = tuple[str, int]  # file and line
Groups = Mapping[str, Sequence[Sequence["PlacedPair"]]]

TOGETHER = "all files"
RULES = {
    "length": ("longer, words", "shorter, words", "longer, characters", "shorter, characters", "character count"),
    "opening": ("yes opening", "no opening", "first word"),
    "vocabulary": ("bag of words",),
}
_FOLDS, _LISTED = 5, 10
_SIDES = ("matching", "not_matching")
_WORD = r"\w+(?:'\w+)*"
_FIXED: tuple[tuple[str, str, Callable[[str], float]], ...] = (
    ("longer, words", "shorter, words", lambda text: len(text.split())),
    ("longer, characters", "shorter, characters", len),
    ("yes opening", "no opening", lambda text: {"yes": 1, "no": -1}.get(first_word(text), 0)),
)
"""A rule, its opposite, and the number of which the larger wins."""
_LEARNED: dict[str, Callable[[], Any]] = {
    "first word": lambda: CountVectorizer(analyzer=lambda text: [first_word(text)]),
    "character count": lambda: FunctionTransformer(lambda texts: sparse.csr_array([[float(len(t))] for t in texts])),
    # Punctuation counts as words: a habit of exclamation marks gives answers away too.
    "bag of words": lambda: TfidfVectorizer(preprocessor=_plain, token_pattern=_WORD + r"|[^\w\s]", sublinear_tf=True),
}
"""A rule, and the features it is learned from."""


@dataclass(frozen=True)
class PlacedPair:
    """A pair and where it stands."""

    file: str
    line: int
    pair: Pair


@dataclass(frozen=True)
class Guess:
    """How well one rule does: ``leads`` is the score of the matching answer minus the other's, ``[pairs]``; 0 ties."""

    leads: Floats

    @property
    def accuracy(self) -> float:
        """The share of pairs in which the rule picks the matching answer; a tie counts half."""
        return float((np.sign(self.leads) + 1).mean() / 2)

    @property
    def p(self) -> float:
        """Two-sided exact binomial p over the pairs without a tie; 1 if there are only ties."""
        right, decided = int((self.leads > 0).sum()), int((self.leads != 0).sum())
        return float(binomtest(right, decided).pvalue) if decided else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the accuracy; an odd tie is rounded down."""
        right = int((np.sign(self.leads) + 1).sum()) // 2
        ends = binomtest(right, len(self.leads)).proportion_ci(method="wilson")
        return float(ends.low), float(ends.high)

    @property
    def alarming(self) -> bool:
        """Whether the rule alone scores above 0.65 with p < 0.05."""
        return self.accuracy > 0.65 and self.p < 0.05


@dataclass(frozen=True)
class Measures:
    """Figures of some rows, and how well each rule guesses; see `measure`."""

    rows: Sequence[PlacedPair]
    figures: Mapping[str, float]
    guesses: Mapping[str, Guess]


@dataclass(frozen=True)
class Finding:
    """Something to mend: an ``error`` or a ``warning``; ``places`` are groups of rows, those to begin with first."""

    severity: str
    message: str
    places: Sequence[Sequence[Place]]
    fix: str


@dataclass(frozen=True)
class Quality:
    """An assessment.

    Attributes:
        measures: file -> figures, and for several files those of all pairs, as ``all files``.
        words: the ten words that weigh most for the matching answer, and the ten against it -> weight.
        repeats: kind (see `find_repeats`) -> groups of rows.
        named: name -> the rows that mention it.
        findings: what to mend, the worst first.
    """

    measures: Mapping[str, Measures]
    words: tuple[Mapping[str, float], Mapping[str, float]]
    repeats: Groups
    named: Mapping[str, list[PlacedPair]]
    findings: Sequence[Finding]


def assess(rows: Sequence[PlacedPair], left_out: Mapping[str, Sequence[Place]], names: Sequence[str]) -> Quality:
    """Return what gives the matching answers of ``rows`` (at least one) away, and what to mend.

    ``left_out`` has the rows that are no pairs, by reason. A word that begins with one of ``names`` mentions it.
    """
    scopes = {file: [row for row in rows if row.file == file] for file in dict.fromkeys(row.file for row in rows)}
    if len(scopes) > 1:
        scopes[TOGETHER] = list(rows)
    measures = {scope: measure(own) for scope, own in scopes.items()}
    words, repeats = telling_words([row.pair for row in rows]), find_repeats(rows)
    named = {name: [row for row in rows if any(mentions(row.pair, name).values())] for name in names}
    findings = [*_shortcuts(measures, words), *_flaws(repeats, left_out, named)]
    return Quality(measures, words, repeats, named, sorted(findings, key=lambda finding: finding.severity))


def measure(rows: Sequence[PlacedPair]) -> Measures:
    """Return the figures of ``rows`` (at least one) and the guesses of all `RULES`.

    Figures: mean lengths of either side, and the shares of the pairs whose answers begin alike and begin one with yes,
    the other with no. The learned rules are absent if fewer than five prompts differ.
    """
    pairs, guesses = [row.pair for row in rows], dict[str, Guess]()
    figures = {"pairs": float(len(pairs))}
    for rule, opposite, number in _FIXED:
        matching, others = (np.array([float(number(getattr(pair, side))) for pair in pairs]) for side in _SIDES)
        guesses |= {rule: Guess(matching - others), opposite: Guess(others - matching)}
        if ", " in rule:
            unit = rule.split(", ")[1]
            figures |= {f"{unit}_matching": float(matching.mean()), f"{unit}_not_matching": float(others.mean())}
    if len({normalise(pair.prompt) for pair in pairs}) >= _FOLDS:
        guesses |= {rule: _guess_unseen(pairs, features) for rule, features in _LEARNED.items()}
    figures["same_first_word"] = float(np.mean([first_word(p.matching) == first_word(p.not_matching) for p in pairs]))
    figures["yes_no"] = float((abs(guesses["yes opening"].leads) == 2).mean())
    return Measures(rows, figures, guesses)


def telling_words(pairs: Sequence[Pair]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the ten words that weigh most for the matching answer and the ten against it, with their weights."""
    vectoriser, differences = _differences(pairs, _LEARNED["bag of words"])
    weights = dict(zip(vectoriser.get_feature_names_out(), _fit(differences).coef_[0].tolist()))
    ranked = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    return {w: x for w, x in ranked[:_LISTED] if x > 0}, {w: x for w, x in ranked[: -_LISTED - 1 : -1] if x < 0}


def first_words(pairs: Sequence[Pair]) -> dict[str, tuple[int, int]]:
    """Return first word -> how many matching answers and how many others begin with it, the most lopsided first."""
    matching, others = (Counter(first_word(getattr(pair, side)) for pair in pairs) for side in _SIDES)
    ranked = sorted(matching | others, key=lambda word: (-abs(matching[word] - others[word]), word))
    return {word: (matching[word], others[word]) for word in ranked}


def first_word(text: str) -> str:
    """Return the first word without case; empty if there is none."""
    found = re.search(_WORD, _plain(text))
    return found[0] if found else ""


def mentions(pair: Pair, name: str) -> dict[str, bool]:
    """Return for ``prompt``, ``matching`` and ``not_matching`` whether a word begins with ``name``, in any case."""
    begins = re.compile(r"(?<!\w)" + re.escape(_plain(name)))
    return {part: begins.search(_plain(getattr(pair, part))) is not None for part in ("prompt", *_SIDES)}


def find_repeats(rows: Sequence[PlacedPair]) -> dict[str, list[tuple[PlacedPair, ...]]]:
    """Return groups of rows by kind; prompts are compared as `normalise` has them.

    ``leaks``: one prompt in several files; ``swapped``: one prompt with an answer that matches in one row and not in
    another; ``duplicates``: one prompt twice in a file without that; ``near``: two prompts whose sets of words have a
    Jaccard index of 0.8 or more; ``answers``: one answer in several rows.
    """
    same = _grouped((normalise(row.pair.prompt), row) for row in rows)
    texts = ((" ".join(getattr(row.pair, side).split()), row) for row in rows for side in _SIDES)
    twice = _grouped(((row.file, normalise(row.pair.prompt)), row) for row in rows)
    return {
        "leaks": [group for group in same if len({row.file for row in group}) > 1],
        "swapped": [group for group in same if _swapped(group)],
        "duplicates": [group for group in twice if not _swapped(group)],
        "near": _near_duplicates(rows),
        "answers": list(dict.fromkeys(_grouped(texts))),
    }


def _shortcuts(measures: Mapping[str, Measures], words: Sequence[Iterable[str]]) -> list[Finding]:
    """Return the best alarming rule of every family: over all pairs, else in single files."""
    found: list[tuple[float, Finding]] = []
    for family, rules in RULES.items():
        alarming: dict[str, str] = {}
        for scope, own in measures.items():
            good = [rule for rule in rules if rule in own.guesses and own.guesses[rule].alarming]
            if good:
                alarming[scope] = max(good, key=lambda rule: own.guesses[rule].accuracy)
        for scope in [TOGETHER] if TOGETHER in alarming else alarming:
            rows, guess = measures[scope].rows, measures[scope].guesses[alarming[scope]]
            # The rows that give most away come first.
            told = [rows[i] for i in np.argsort(-guess.leads, kind="stable") if guess.leads[i] > 0]
            message = f'"{alarming[scope]}" finds {guess.accuracy:.0%} of the matching answers in {scope}'
            fix = {
                "length": f"even out the lengths of about {-int(-np.sign(guess.leads).sum() // 2)} rows",
                "opening": "begin both answers of a pair alike",
                "vocabulary": "use on both sides: " + ", ".join(w for side in words for w in list(side)[:3]),
            }[family]
            found.append((guess.accuracy, Finding("warning", message, _places([row] for row in told), fix)))
    return [finding for _, finding in sorted(found, key=lambda item: -item[0])]


def _flaws(
    repeats: Groups, left_out: Mapping[str, Sequence[Place]], named: Mapping[str, list[PlacedPair]]
) -> list[Finding]:
    across = [pair for pair in repeats["near"] if pair[0].file != pair[1].file]
    within = [pair for pair in repeats["near"] if pair[0].file == pair[1].file]
    flaws = [
        ("error", "the same prompt in several files", _places(repeats["leaks"]), "keep it in one of them"),
        ("error", "the same prompt with the poles swapped", _places(repeats["swapped"]), "delete the wrong row"),
        *(("error", f"left out: {why}", [[at] for at in places], "mend or delete") for why, places in left_out.items()),
        *(("warning", f"mentions {x!r}", _places([r] for r in named[x]), "say it without the name") for x in named),
        ("warning", "nearly the same prompt in two files", _places(across), "reword or delete one"),
        ("warning", "the same prompt several times in a file", _places(repeats["duplicates"]), "keep one row"),
        ("warning", "nearly the same prompt twice in a file", _places(within), "reword or delete one"),
        ("warning", "the same answer in several rows", _places(repeats["answers"]), "reword all but one"),
    ]
    return [Finding(level, f"{what} ({len(places)})", places, fix) for level, what, places, fix in flaws if places]


def _near_duplicates(rows: Sequence[PlacedPair]) -> list[tuple[PlacedPair, ...]]:
    owners = {normalise(row.pair.prompt): row for row in reversed(rows)}
    prompts, firsts = [p for p in owners if p][::-1], [row for p, row in owners.items() if p][::-1]
    if not prompts:
        return []
    bags = CountVectorizer(analyzer=str.split, binary=True, dtype=np.int32).fit_transform(prompts)
    sizes, found = np.asarray(bags.sum(axis=1)).ravel(), []
    for start in range(0, len(prompts), 1000):
        shared = (bags[start : start + 1000] @ bags.T).tocoo()
        one, other = shared.row + start, shared.col
        near = (5 * shared.data >= 4 * (sizes[one] + sizes[other] - shared.data)) & (one < other)
        found += sorted(zip(one[near].tolist(), other[near].tolist()))
    return [(firsts[i], firsts[j]) for i, j in found]


def _swapped(group: Sequence[PlacedPair]) -> bool:
    sides = [{" ".join(getattr(row.pair, side).split()) for row in group} for side in _SIDES]
    return bool(sides[0] & sides[1])


def _grouped(keyed: Iterable[tuple[Any, PlacedPair]]) -> list[tuple[PlacedPair, ...]]:
    groups: dict[Any, dict[PlacedPair, None]] = {}
    for key, row in keyed:
        groups.setdefault(key, {})[row] = None
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _places(groups: Iterable[Iterable[PlacedPair]]) -> list[list[Place]]:
    return [[(row.file, row.line) for row in group] for group in groups]


def _guess_unseen(pairs: Sequence[Pair], features: Callable[[], Any]) -> Guess:
    """Score a logistic regression on ``features`` by five-fold cross-validation; equal prompts share a fold."""
    prompts, leads = np.array([normalise(pair.prompt) for pair in pairs]), np.zeros(len(pairs))
    differences = _differences(pairs, features)[1]  # the vocabulary is of all answers, but knows not which match
    for known, unseen in GroupKFold(_FOLDS, shuffle=True, random_state=0).split(prompts, groups=prompts):
        leads[unseen] = _fit(differences[known]).decision_function(differences[unseen])
    return Guess(leads)


def _differences(pairs: Sequence[Pair], features: Callable[[], Any]) -> tuple[Any, Any]:
    """Return the fitted features and those of the matching answers minus the others', ``[pairs, features]``."""
    vectoriser = features()
    both = vectoriser.fit_transform([getattr(pair, side) for side in _SIDES for pair in pairs])
    return vectoriser, sparse.csr_array(both[: len(pairs)] - both[len(pairs) :])


def _fit(differences: Any) -> LogisticRegression:
    """Return a regression that tells differences from their negatives."""
    both, targets = sparse.vstack([differences, -differences]), np.repeat([1, 0], differences.shape[0])
    return LogisticRegression(fit_intercept=False, solver="liblinear").fit(both.tocsr(), targets)


def _plain(text: str) -> str:
    return text.casefold().replace("\u2019", "'")
