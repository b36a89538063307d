"""Which option a generated answer names: found or counted as missing, never guessed."""

import re
from collections.abc import Sequence
from typing import Literal

from persona_prune.personas.pairs import normalise

NoOption = Literal["refused", "unparsable"]

_MACHINE = r"an? (ai|artificial|language|large|computer|machine|virtual|digital|chat\w*)"
_REFUSAL = re.compile(
    rf"\b(as {_MACHINE}|i (m|am) ({_MACHINE}|sorry|unable|not able)"
    r"|i (can t|cannot|can not|won t|will not|would rather not|prefer not|decline|apologi[sz]e)"
    r"|i (don t|do not) have (any )?(personal|feelings|opinions|emotions|preferences|beliefs))\b"
)
_NEGATION = re.compile(r"\b(\w+n t|not|never|cannot|neither|nor|no)\b")


def parse_answer(text: str, options: Sequence[str]) -> int | NoOption:
    """Return the index of the one option that ``text`` names, or why there is none.

    The option must stand in the text as whole words, case and punctuation aside. An option inside a longer one that is
    there ("agree" in "strongly agree") does not count. A text that declines to answer is ``refused``; one that names
    no option, several different ones, or one after a negation ("I don't agree") is ``unparsable``.
    """
    # Apostrophes of every kind end up as spaces: "don't" becomes "don t".
    answer = normalise(text)
    named = [normalise(option) for option in options]
    spans: list[tuple[int, int, int]] = []
    for index in sorted(range(len(named)), key=lambda i: -len(named[i])):
        for match in re.finditer(rf"\b{re.escape(named[index])}\b", answer) if named[index] else ():
            if not any(start <= match.start() and match.end() <= end for start, end, _ in spans):
                spans.append((match.start(), match.end(), index))
    rest = answer
    for start, end, _ in spans:
        rest = rest[:start] + "_" * (end - start) + rest[end:]
    if _REFUSAL.search(rest):
        return "refused"
    found = {index for _, _, index in spans}
    if len(found) != 1 or _NEGATION.search(rest[: max(start for start, _, _ in spans)]):
        return "unparsable"
    return found.pop()
