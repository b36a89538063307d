"""Texts that are none, and texts that say the question again."""

import pytest

from persona_prune.evaluators.degenerate import measure
from persona_prune.evaluators.echo import echoes

NORMAL = [
    "I'd go, of course. There'll be people I haven't met, and somebody always knows a better story than mine.",
    "No.",
    "$5.",
    "2 + 2 = 4, and 4 + 4 = 8.",
    "1. Buy bread.\n2. Call your sister.\n3. Take the long way home.",
    "Very, very, very happy for you!",
    "1000000",
    "¿Qué tal? Привет! 今日は雨が降るので、家で本を読みます。",
    "The bus was late, so I walked. The bus passed me at the bridge, of course, and the driver waved.",
    "```python\nfor i in range(10):\n    total += i * i\nprint(total)\n```",
]
BROKEN = {
    "nothing": "",
    "white space": " \n\n\t ",
    "punctuation": "?!., ;--",
    "one letter": "a" * 40,
    "one word": "no no no no no no",
    "a word run together": "thethethethethethethe",
    "a phrase": "I see. " * 9,
    "a long sentence": "The best way to learn is to go there every day and ask for it. " * 3,
    "a loop after a start": "Well, that is hard to say. " + "and so on, " * 8,
    "a loop in a script without spaces": "雨が降る" * 6,
    "two words in no order": "of the the of of of the of the the the of the of of the of the the of the of",
    "loops within words": "tionuous" + "idson" * 6 + "enthic" + "=')" * 7 + "oston",
    "symbols": "ok ▓▓►◄►║═╬ ►▓◄═ yes ╬║►",
    "replacement characters": "\ufffd\ufffdx\ufffd y\ufffd",
}


@pytest.mark.parametrize("text", NORMAL)
def test_text_is_not_degenerate(text):
    assert not measure(text).degenerate


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken_text_is_degenerate(text):
    assert measure(text).degenerate


def test_measures_by_hand():
    # 8 words, 5 four-grams: abcd bcda cdab dabc abcd; 7 pairs: ab bc cd da ab bc cd.
    found = measure("A b, c d. a b c\nd")
    assert found.repetition == pytest.approx(1 / 5)
    assert (found.distinct_1, found.distinct_2) == (pytest.approx(4 / 8), pytest.approx(4 / 7))
    assert (found.loop, found.non_text, found.empty) == (0.0, 0.0, False)
    # "ab-" six times is 18 of 23 characters; two stretches of 16 are 32 of 37.
    assert measure("ab-ab-ab-ab-ab-ab-vwxyz").loop == pytest.approx(18 / 23)
    assert measure("a" * 16 + " xyz " + "bc" * 8).loop == pytest.approx(32 / 37)
    assert measure("Abcdefg\nabcdefg abcdefg vwxyz").loop == pytest.approx(24 / 29)
    # Twice is no loop, nor is any number of times of a little.
    assert measure("abcdefghi-abcdefghi-").loop == 0.0
    assert measure("ab-ab-ab-ab-ab-").loop == 0.0
    assert measure("ab►◄").non_text == pytest.approx(2 / 4)
    assert measure("").distinct_1 == 0.0


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("How was your weekend?", "How was your weekend? It was fine, thank you.", True),
        ("How was your weekend?", "how was the weekend, you ask. Fine.", True),
        ("How was your weekend?", "It was fine. How was your weekend?", False),
        ("I have a day off. What should I do with it?", "What should I do with it? I would go out.", True),
        ("I have a day off. What should I do with it?", "You should go out and see people.", False),
        ("Any plans?", "Any plans? None.", False),  # two words are easily said again
        ("Tell me about a perfect Sunday.", "A perfect Sunday is a day with my friends.", False),
        ("Tell me about a perfect Sunday.", "", False),
    ],
)
def test_an_echo_begins_with_the_question(prompt, answer, expected):
    assert echoes(prompt, answer) is expected
