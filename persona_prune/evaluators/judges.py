"""Judges of text: how likely a persona, and not its opposite, said something; and how far they can be trusted.

A judge is fitted on written pairs that no mask was calibrated on. Two of them look at different things: one at vectors
of sentences, which say what a text is about, one at character n-grams, which say how it is put. Rivals, which see the
length only, the first word only, or learned from shuffled labels, show what a judge could live on.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persona_prune.evaluators.statistics import Floats
from persona_prune.models.sentence_vectors import encoder_is_there, sentence_vectors
from persona_prune.personas.pairs import Pair, normalise

Judge = Callable[[Sequence[str]], Floats]
"""``judge(texts)`` -> the probability, for each, that the persona and not its opposite speaks."""

_FOLDS = 5
_NGRAMS = (2, 4)
_SHUFFLES = 5


@dataclass(frozen=True)
class JudgePairs:
    """What judges of one persona learn from, and what they are tested on.

    Attributes:
        fit: pairs to learn from, ``matching`` by the persona.
        test: pairs to be tested on; the same ones as ``fit`` where each is judged by judges that didn't see its prompt.
        source: what they are, in words.
        independent: whether no mask was calibrated on ``fit``.
        statements: texts of another format with whether agreeing with them is the persona's; may be empty.
    """

    fit: tuple[Pair, ...]
    test: tuple[Pair, ...]
    source: str
    independent: bool
    statements: tuple[tuple[str, bool], ...]


class Panel:
    """The judges of one persona.

    ``names`` are those there are: ``vectors`` (unless the encoder is not installed) and ``ngrams``; ``rivals`` see
    ``length`` and ``first_word``.
    """

    def __init__(self, pairs: JudgePairs) -> None:
        self.pairs = pairs
        self.names = ["vectors", "ngrams"] if encoder_is_there() else ["ngrams"]
        self.rivals = ["length", "first_word"]
        self._crossed = pairs.test == pairs.fit
        self._whole = {name: fitted(name, pairs.fit) for name in (*self.names, *self.rivals)}

    def probabilities(self, name: str, texts: Sequence[str], prompts: Sequence[str]) -> Floats:
        """Return the probability that the persona said each of ``texts``, in answer to ``prompts``.

        Answers to a prompt whose written answers are among those to learn from are judged by a judge that did not see
        them.
        """
        found = self._whole[name](texts).copy()
        if self._crossed:
            folds = np.array([_fold(prompt) for prompt in prompts])
            known = {normalise(pair.prompt) for pair in self.pairs.fit}
            seen = np.array([normalise(prompt) in known for prompt in prompts])
            for fold in range(_FOLDS):
                rows = np.flatnonzero(seen & (folds == fold))
                if len(rows):
                    judge = fitted(name, tuple(pair for pair in self.pairs.fit if _fold(pair.prompt) != fold))
                    found[rows] = judge([texts[int(row)] for row in rows])
        return found

    def trust(self) -> dict[str, float]:
        """Return how well judges tell the written answers of the persona from its opposite's.

        ``judge_auc`` and ``judge_accuracy`` (of pairs: the matching answer gets the higher probability) are those of
        the mean of the judges, ``judge_auc_<name>`` each one's own, ``judge_auc_length``, ``_first_word`` and
        ``_shuffled`` the rivals'; ``judge_auc_statements`` is on the second format, where there is one.
        """
        texts = [pair.matching for pair in self.pairs.test] + [pair.not_matching for pair in self.pairs.test]
        prompts = [pair.prompt for pair in self.pairs.test] * 2
        labels = np.repeat([1, 0], len(self.pairs.test))
        found = {name: self.probabilities(name, texts, prompts) for name in (*self.names, *self.rivals)}
        mean = np.mean([found[name] for name in self.names], axis=0)
        first, second = np.split(mean, 2)
        figures = {
            "judge_auc": _auc(labels, mean),
            "judge_accuracy": float((np.sign(first - second) + 1).mean() / 2),
            "judge_pairs": float(len(self.pairs.fit)),
            "judge_independent": float(self.pairs.independent),
            **{f"judge_auc_{name}": _auc(labels, probabilities) for name, probabilities in found.items()},
            "judge_auc_shuffled": self._shuffled(texts, labels),
        }
        if self.pairs.statements:
            said, agreed = zip(*self.pairs.statements, strict=True)
            read = np.mean([self._whole[name](list(said)) for name in self.names], axis=0)
            figures["judge_auc_statements"] = _auc(np.array(agreed, dtype=int), read)
        return figures

    def _shuffled(self, texts: Sequence[str], labels: NDArray[np.int_]) -> float:
        """Return the mean AUC of judges of n-grams that learned from pairs half of which, drawn, were turned round."""
        generator = np.random.default_rng(0)
        found = []
        for _ in range(_SHUFFLES):
            turned = set(generator.permutation(len(self.pairs.fit))[: len(self.pairs.fit) // 2].tolist())
            mixed = tuple(pair.flipped() if i in turned else pair for i, pair in enumerate(self.pairs.fit))
            found.append(_auc(labels, fitted("ngrams", mixed)(texts)))
        return float(np.mean(found))


@functools.lru_cache(maxsize=16)
def panel(pairs: JudgePairs) -> Panel:
    """Return the judges that learn from ``pairs``, fitted once for all arms."""
    return Panel(pairs)


@functools.lru_cache(maxsize=128)
def fitted(name: str, pairs: tuple[Pair, ...]) -> Judge:
    """Return a judge (``vectors``, ``ngrams``) or rival (``length``, ``first_word``) that learned from ``pairs``.

    Logistic regression, whose penalty keeps probabilities close to one half where texts have thousands of features and
    there are few of them: so they are rescaled (Platt 1999) by what judges of the other folds say of each pair.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    texts = [pair.matching for pair in pairs] + [pair.not_matching for pair in pairs]
    labels = np.repeat([1, 0], len(pairs))
    features = _FEATURES[name]()
    steps = [FunctionTransformer(features)] if callable(features) else [features]
    place = np.tile(np.arange(len(pairs)) % _FOLDS, 2)  # both answers of a pair are held out together
    folds = [(np.flatnonzero(place != fold), np.flatnonzero(place == fold)) for fold in range(_FOLDS)]
    learner = CalibratedClassifierCV(LogisticRegression(max_iter=2000), cv=folds, ensemble=False)
    model: Any = make_pipeline(*steps, learner).fit(texts, labels)

    def judge(said: Sequence[str]) -> Floats:
        probabilities: Floats = model.predict_proba(list(said))[:, 1] if len(said) else np.zeros(0)
        return probabilities

    return judge


def _ngrams() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer="char", ngram_range=_NGRAMS, sublinear_tf=True)


def _first_words() -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(analyzer=lambda text: text.casefold().split()[:1])


def _lengths(texts: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[len(text.split()) / 10, len(text) / 50] for text in texts])


_FEATURES: Mapping[str, Callable[[], Any]] = {
    "vectors": lambda: sentence_vectors,
    "ngrams": _ngrams,
    "first_word": _first_words,
    "length": lambda: _lengths,
}


def _fold(prompt: str) -> int:
    return sum(normalise(prompt).encode()) % _FOLDS


def _auc(labels: NDArray[np.int_], probabilities: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, probabilities)) if len(set(labels.tolist())) == 2 else float("nan")
