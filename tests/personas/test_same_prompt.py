"""Which prompts are the same: to the leak test, to splits, to files of before.

"C" and "C++" were one prompt, and so were any two emoji: leaks that were none, and splits without pairs.
"""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_prune.personas.pair_files import without_leaks
from persona_prune.personas.pairs import Pair, earlier_prompt_hashes, normalise, only_words, prompt_hashes
from persona_prune.personas.splits import hold_out, part_of, split_of

DIFFERENT = [
    ("C", "C++"),
    ("C", "C#"),
    ("2 + 2", "2 - 2"),
    ("2 * 2?", "2 / 2?"),
    ("What is 3.5?", "What is 35?"),
    ("\U0001f600", "\U0001f622"),
    ("I like it \U0001f600", "I like it \U0001f622"),
    ("a < b", "a > b"),
    (":)", ":("),
    ("???", "!"),
    ("f(x)", "fx"),
]
SAME = [
    ("How are you?", "how   are you"),
    ("How are you, Anna?", "How are you Anna..."),
    ("\u201cReally?\u201d she said", '"Really" she said!'),
    ("What\u2019s up?", "What's up"),
    ("Comment \u00e7a va ?", "comment \u00e7a va"),
    ("\u00bfQu\u00e9 tal?", "qu\u00e9 tal"),
    ("\u4f60\u597d\u5417\uff1f", "\u4f60\u597d\u5417"),
    ("\uff23\uff0b\uff0b", "c++"),
    ("Stra\u00dfe", "STRASSE"),
    ("Cafe\u0301", "caf\u00e9"),
    ("a\u200b b", "a b"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_symbols_count(one, other):
    assert normalise(one) != normalise(other)
    pairs = [Pair(one, "a", "b")]
    assert without_leaks(pairs, {normalise(other)}, "error") == tuple(pairs)
    assert not prompt_hashes([one]) & prompt_hashes([other])


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_a_reader_calls_the_same_prompt_is(one, other):
    assert normalise(one) == normalise(other)
    assert split_of(one) == split_of(other)
    with pytest.raises(ValueError, match="also evaluated"):
        without_leaks([Pair(one, "a", "b")], {normalise(other)}, "error")


@given(st.text())
def test_the_form_is_its_own_form(prompt):
    assert normalise(normalise(prompt)) == normalise(prompt)


def test_so_is_that_of_every_character():
    for code in (*range(0xD800), *range(0xE000, 0x30000)):
        form = normalise(f"a {chr(code)} b{chr(code)}")
        assert normalise(form) == form, hex(code)


def before(prompt):
    """The place of a prompt as it was computed when the published figures were measured."""
    return int(hashlib.sha256(only_words(prompt).encode()).hexdigest(), 16) % 100


def test_every_prompt_stays_in_its_part():
    for number in range(200):
        prompt = f"Question number {number}, or C++?"
        part = "calibration" if before(prompt) < 50 else "validation" if before(prompt) < 65 else "test"
        assert split_of(prompt) == part
    # Near-identical prompts are in one part, where each stays a prompt of its own.
    pairs = [Pair(prompt, "a", "b") for prompt in ("2 + 2", "2 - 2", "2 * 2")]
    assert part_of(pairs, split_of("2 2"), "f.csv") == tuple(pairs)
    fit, held = hold_out(pairs)
    assert (len(fit), len(held)) == (2, 1)


def test_emoji_are_in_all_parts():
    emoji = [chr(code) for code in range(0x1F600, 0x1F640)]
    assert {split_of(prompt) for prompt in emoji} == {"calibration", "validation", "test"}


def test_files_of_before_know_prompts_by_their_words():
    asked = {normalise(prompt) for prompt in ("What\u2019s up?", "C++")}
    assert earlier_prompt_hashes(asked) == earlier_prompt_hashes(["what s up", "C"])
    assert {len(hashed) for hashed in prompt_hashes(asked)} != {len(hashed) for hashed in earlier_prompt_hashes(asked)}
