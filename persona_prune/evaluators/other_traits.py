"""What else moved: judges of all embedded axes read the same answers."""

import functools
from collections.abc import Callable, Sequence

from persona_prune.evaluators.judges import Judge, fitted
from persona_prune.evaluators.statistics import Floats
from persona_prune.personas.pair_files import EMBEDDED, read_pairs
from persona_prune.personas.persona import AnyPersona


def trait_judges(who: AnyPersona) -> Callable[[Sequence[str]], dict[str, Floats]]:
    """Return what gives, by embedded set that ``who`` is not of, the probability of its matching pole for each text.

    By character n-grams alone: a dozen judges of vectors would cost more than the answers.
    """
    own = {part.pairs for part, _ in who.parts}
    judges = {name: judge for name, judge in _judges().items() if name not in own}
    return lambda texts: {name: judge(texts) for name, judge in judges.items()}


@functools.cache
def _judges() -> dict[str, Judge]:
    sets = sorted(path.parent.name for path in EMBEDDED.glob("*/judge.jsonl"))
    return {name: fitted("ngrams", read_pairs(EMBEDDED / name / "judge.jsonl")) for name in sets}
