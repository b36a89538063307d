"""Does an answer begin with the question? Measured on the text alone."""

import re
from difflib import SequenceMatcher

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_LEAST_WORDS = 3  # a shorter prompt is easily said again by chance
_ALIKE = 0.75


def echoes(prompt: str, answer: str) -> bool:
    """Return whether ``answer`` begins by saying ``prompt`` again: in at least three quarters of its words, in order.

    A sentence of the prompt that stands alone at the beginning counts too. Prompts of fewer than three words don't.
    """
    said = _words(answer)
    sentences = [_words(sentence) for sentence in re.split(r"(?<=[.?!])\s+", prompt)]
    asked = [sentence for sentence in (_words(prompt), sentences[-1]) if len(sentence) >= _LEAST_WORDS]
    return any(SequenceMatcher(None, words, said[: len(words)], autojunk=False).ratio() >= _ALIKE for words in asked)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
