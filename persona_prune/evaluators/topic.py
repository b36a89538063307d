"""Is an answer about its question? By vectors of sentences, against other questions."""

from collections.abc import Sequence

import numpy as np

from persona_prune.evaluators.statistics import Floats
from persona_prune.models.sentence_vectors import sentence_vectors
from persona_prune.personas.pairs import Pair

_WRITTEN_SHARE = 0.05  # of written answers that count as off the question: they set the scale


def topic_percentile(answers: Sequence[str], prompts: Sequence[str], others: Sequence[str]) -> Floats:
    """Return, for each answer, the share of ``others`` that it is less like than its own prompt, ``[answers]``.

    1.0 is nearest to its own prompt; 0.5 is what an answer to something else gets.

    Args:
        answers: texts.
        prompts: what each of them answers.
        others: questions that it could have answered instead; its own prompt among them is left out.
    """
    known = list(dict.fromkeys(others))
    own = (sentence_vectors(answers) * sentence_vectors(prompts)).sum(1)
    like = sentence_vectors(answers) @ sentence_vectors(known).T
    different = np.array([[other != prompt for other in known] for prompt in prompts])
    shares: Floats = ((like < own[:, None]) & different).sum(1) / np.maximum(different.sum(1), 1)
    return shares


def topic_floor(written: Sequence[Pair], others: Sequence[str]) -> float:
    """Return the percentile that all but a twentieth of the written answers reach: less is off the question."""
    answers = [text for pair in written for text in (pair.matching, pair.not_matching)]
    prompts = [pair.prompt for pair in written for _ in range(2)]
    return float(np.quantile(topic_percentile(answers, prompts, others), _WRITTEN_SHARE, method="lower"))
