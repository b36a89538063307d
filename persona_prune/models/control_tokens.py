"""Control tokens: what a tokenizer takes for the end or the beginning of a message, wherever it stands.

Chat templates write them. In a text that is put into a template, one would be obeyed: a pair could end the user's turn
and add a system message of its own. So no text from a file, a chat or a request may hold one.
"""

import re
import weakref
from typing import Any

from persona_prune.common.text_files import unencodable

_PATTERNS: "weakref.WeakKeyDictionary[Any, re.Pattern[str]]" = weakref.WeakKeyDictionary()


def control_token(tokenizer: Any, text: str) -> str | None:
    """Return the first of the tokenizer's special tokens that stands in ``text``; None where there is none."""
    found = _pattern(tokenizer).search(text)
    return found[0] if found else None


def refuse_control_tokens(tokenizer: Any, text: str, where: str) -> str:
    """Return ``text``, which stands in ``where``.

    Raises:
        ValueError: it holds one of the tokenizer's special tokens, or what no tokenizer can be given.
    """
    token = control_token(tokenizer, text)
    if token is not None:
        raise ValueError(
            f"{where} holds {token}, which the model would take for the end or the beginning of a message: leave it out"
        )
    if told := unencodable(text):
        raise ValueError(f"{where} {told}")
    return text


def without_control_tokens(tokenizer: Any, text: str) -> str:
    """Return a text of the model's own, which may spell special tokens letter by letter, without them."""
    pattern = _pattern(tokenizer)
    while pattern.search(text):  # what is left may be one again
        text = pattern.sub("", text)
    return text


def _pattern(tokenizer: Any) -> re.Pattern[str]:
    """Return what finds special tokens, made once a tokenizer: some have thousands."""
    if tokenizer not in _PATTERNS:
        try:
            added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        except NotImplementedError:  # mistral-common's, which lists them all as special tokens
            added = set()
        # Where "!" is the padding, "!" in a text is no less a text.
        tokens = [token for token in added | set(tokenizer.all_special_tokens) if len(token.strip()) > 1]
        longest_first = sorted(tokens, key=lambda token: (-len(token), token))
        _PATTERNS[tokenizer] = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    return _PATTERNS[tokenizer]


def quoted(text: str) -> str:
    """Return the beginning of a text, for messages."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
