"""Which option a generated answer names: found or counted as missing, never guessed."""

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from persona_prune.personas.pairs import only_words

NoOption = Literal["refused", "unparsable"]

SCALE_WORDS = Path(__file__).parent / "scale_words.json"
"""What the options of scales of agreement and of accuracy are called in the most spoken languages and a few more.

``words``: an option in English -> language -> what it is called there. ``not_before`` and ``not_anywhere``: language ->
the words that turn an option round, standing before it or wherever they stand. ``of``: what stands between 4 and 5 in
"4 out of 5"; ``of_reversed``: between 5 and 4.
"""

_MACHINE = r"an? (ai|artificial|language|large|computer|machine|virtual|digital|chat\w*)"
_REFUSAL = re.compile(
    rf"\b(as {_MACHINE}|i (m|am) ({_MACHINE}|sorry|unable|not able)"
    r"|i (can t|cannot|can not|won t|will not|would rather not|prefer not|decline|apologi[sz]e)"
    r"|i (don t|do not) have (any )?(personal|feelings|opinions|emotions|preferences|beliefs))\b"
)
_NEGATION = re.compile(r"\b(\w+n t|not|never|cannot|neither|nor|no)\b")
_NEVER = re.compile(r"(?!)")
# Thai, Lao, Burmese, Khmer, kana and Chinese characters: no spaces between words.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_LATIN = re.compile("[\\W\\d_a-z\u00df-\u024f]*")


@dataclass(frozen=True)
class _Phrase:
    """Words that name the option ``index``, and what turns them round: before them, or anywhere in the answer."""

    index: int
    words: str
    before: re.Pattern[str]
    anywhere: re.Pattern[str]


def parse_answer(text: str, options: Sequence[str]) -> int | NoOption:
    """Return the index of the one option that ``text`` names, or why there is none.

    The option must stand in the text as whole words, case and punctuation aside. An option inside a longer one that is
    there ("agree" in "strongly agree") does not count. A text that declines to answer is ``refused``; one that names
    no option, several different ones, or one after a negation ("I don't agree") is ``unparsable``.

    Where none of the options stands there as it was asked, what they are called in other languages counts the same
    (`SCALE_WORDS`), and where nothing of that does either, a number out of as many as there are options: "4 out of 5",
    "4/5", in any digits. A number alone does not: it may be the place in a list.
    """
    # Apostrophes of every kind end up as spaces: "don't" becomes "don t".
    answer = only_words(text)
    found = _named(answer, _own(tuple(options)))
    if found is None:
        found = _named(answer, _translated(tuple(options)))
    if found is None:
        found = _numbered(text, len(options))
    if found is None:
        return "refused" if _REFUSAL.search(answer) else "unparsable"
    return found


def scale_words_digest() -> str:
    """Return 16 hex digits that change with `SCALE_WORDS`."""
    return hashlib.sha256(SCALE_WORDS.read_bytes()).hexdigest()[:16]


def _named(answer: str, phrases: Sequence[_Phrase]) -> int | NoOption | None:
    """Return the option that the phrases in an answer name, or why there is none; None if no phrase is there."""
    spans: list[tuple[int, int, _Phrase]] = []
    for phrase in phrases:
        for match in _pattern(phrase.words).finditer(answer):
            if not any(start <= match.start() and match.end() <= end for start, end, _ in spans):
                spans.append((match.start(), match.end(), phrase))
    if not spans:
        return None
    rest = answer
    for start, end, _ in spans:
        rest = rest[:start] + "_" * (end - start) + rest[end:]
    if _REFUSAL.search(rest):
        return "refused"
    last = max(start for start, _, _ in spans)
    turned = any(phrase.before.search(rest[:last]) or phrase.anywhere.search(rest) for _, _, phrase in spans)
    found = {phrase.index for _, _, phrase in spans}
    return "unparsable" if turned or len(found) != 1 else found.pop()


@functools.lru_cache(maxsize=64)
def _own(options: tuple[str, ...]) -> tuple[_Phrase, ...]:
    """Return the options as they are asked, the longest first, to be turned round as their language does."""
    phrases = []
    for index, option in enumerate(options):
        words = only_words(option)
        languages = _languages(words)
        if not languages and not _LATIN.fullmatch(words):
            languages = {"zh", "ja", "th", "hi", "bn", "ur", "ar", "ru"}  # the scripts keep them apart
        before, anywhere = (_any_of(kind, languages) for kind in ("not_before", "not_anywhere"))
        if words:
            phrases.append(_Phrase(index, words, re.compile(f"{_NEGATION.pattern}|{before.pattern}"), anywhere))
    return _longest_first(phrases)


@functools.lru_cache(maxsize=64)
def _translated(options: tuple[str, ...]) -> tuple[_Phrase, ...]:
    """Return what the options are called in languages other than their own, the longest first."""
    phrases = []
    for index, option in enumerate(map(only_words, options)):
        for names in _scale_words()["words"].values():
            own = {language for language, called in names.items() if option in map(only_words, called)}
            for language, called in names.items() if own else ():
                if language not in own:
                    turns = [_any_of(kind, {language}) for kind in ("not_before", "not_anywhere")]
                    turns[0] = _NEGATION if language == "en" else turns[0]
                    phrases += [_Phrase(index, only_words(name), *turns) for name in called]
    return _longest_first(phrases)


def _numbered(text: str, levels: int) -> int | NoOption | None:
    folded = unicodedata.normalize("NFKC", text).casefold()
    matches = [match for pattern in _number_patterns() for match in pattern.finditer(folded)]
    ratings = [match for match in matches if int(match["m"]) == levels and 1 <= int(match["n"]) <= levels]
    if not ratings:
        return None
    if _REFUSAL.search(only_words(folded)):
        return "refused"
    turned = _NEGATION.search(only_words(folded[: max(match.start() for match in ratings)]))
    named = {int(match["n"]) - 1 for match in ratings}
    return "unparsable" if turned or len(named) != 1 else named.pop()


@functools.cache
def _number_patterns() -> tuple[re.Pattern[str], ...]:
    """Return what finds "4 out of 5" and the like: not in 3.4 out of 5, nor in 4/5/1999."""
    patterns = []
    for kind, first, second in (("of", "n", "m"), ("of_reversed", "m", "n")):
        between = "|".join(map(re.escape, _scale_words()[kind]))
        found = rf"(?<![\d.,/])(?P<{first}>\d{{1,3}})\s*[分点]?\s*(?:{between})\s*(?P<{second}>\d{{1,3}})(?!\d|[.,/]\d)"
        patterns.append(re.compile(found))
    return tuple(patterns)


def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(re.escape(words) if _UNSPACED.search(words) else rf"(?<!\S){re.escape(words)}(?!\S)")


def _any_of(kind: str, languages: set[str]) -> re.Pattern[str]:
    """Return what finds the words that turn an option round in any of these languages."""
    words = [only_words(word) for language in sorted(languages) for word in _scale_words()[kind].get(language, ())]
    return re.compile("|".join(_pattern(word).pattern for word in words)) if words else _NEVER


def _languages(words: str) -> set[str]:
    """Return the languages in which an option is called so, English aside."""
    every = _scale_words()["words"].values()
    return {
        language
        for names in every
        for language, called in names.items()
        if language != "en" and words in map(only_words, called)
    }


def _longest_first(phrases: list[_Phrase]) -> tuple[_Phrase, ...]:
    return tuple(sorted(phrases, key=lambda phrase: -len(phrase.words)))


@functools.cache
def _scale_words() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCALE_WORDS.read_text(encoding="utf-8"))
    return found
