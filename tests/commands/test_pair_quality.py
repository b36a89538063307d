import random

import numpy as np
import pytest
from scipy.stats import binomtest

from persona_prune.check_pairs.pair_quality import (
    TOGETHER,
    Guess,
    PlacedPair,
    assess,
    find_repeats,
    first_word,
    first_words,
    measure,
    mentions,
    telling_words,
)
from persona_prune.personas.pairs import Pair

FILLER = [f"word{i}" for i in range(50)]


def rows_of(pairs, file="f.jsonl"):
    return [PlacedPair(file, line, pair) for line, pair in enumerate(pairs, start=1)]


def noise(count, seed=0, *, ours="", theirs=""):
    """Pairs of eight random words, with something of its own on either side."""
    rng = random.Random(seed)

    def answer(own):
        return " ".join([*rng.sample(FILLER, 8), own]).strip()

    return [Pair(answer(f"prompt {i}"), answer(ours), answer(theirs)) for i in range(count)]


def kinds(quality, severity):
    return [finding.message for finding in quality.findings if finding.severity == severity]


def test_a_guess_counts_ties_half_and_leaves_them_out_of_p():
    guess = Guess(np.array([2.0, 1.0, 0.5, -1.0, 0.0]))
    assert guess.accuracy == pytest.approx(0.7)
    # 3 of 4 decided pairs: 2 * (4 + 1) / 16.
    assert guess.p == pytest.approx(0.625)
    # Wilson for 3 of 5, z = 1.96: centre (0.6 + 0.384) / 1.768, half-width 1.96 * sqrt(0.048 + 0.0384) / 1.768.
    assert guess.interval == pytest.approx((0.2307, 0.8824), abs=2e-4)
    assert Guess(np.zeros(3)).p == 1.0


def test_a_guess_is_alarming_above_065_and_only_when_chance_is_unlikely():
    def guess(right, wrong):
        return Guess(np.array([1.0] * right + [-1.0] * wrong))

    assert not guess(65, 35).alarming
    assert guess(66, 34).alarming
    assert not guess(4, 1).alarming
    assert not guess(1, 99).alarming


def test_lengths_by_hand():
    pairs = [Pair("a", "one two three", "four"), Pair("b", "a b", "cccc dddd"), Pair("c", "x", "y z")]
    own = measure(rows_of(pairs))
    assert own.guesses["longer, words"].leads.tolist() == [2, 0, -1]
    assert own.guesses["longer, words"].accuracy == own.guesses["shorter, words"].accuracy == 0.5
    assert own.guesses["longer, characters"].leads.tolist() == [9, -6, -2]
    assert own.guesses["shorter, characters"].accuracy == pytest.approx(2 / 3)
    assert own.figures["words_matching"] == 2
    assert own.figures["characters_not_matching"] == pytest.approx((4 + 9 + 3) / 3)
    # Three prompts can't be dealt out to five folds.
    assert "bag of words" not in own.guesses


def test_first_words():
    assert [first_word(text) for text in ("\u201cYes, I do", "I\u2019d go", "I'd go", "...", "NO")] == [
        "yes",
        "i'd",
        "i'd",
        "",
        "no",
    ]
    pairs = [Pair("a", "Yes.", "No."), Pair("b", "Yes, so", "no way"), Pair("c", "Well", "well, no")]
    assert list(first_words(pairs).items()) == [("no", (0, 2)), ("yes", (2, 0)), ("well", (1, 1))]
    own = measure(rows_of(pairs))
    assert own.figures["same_first_word"] == pytest.approx(1 / 3)
    assert own.figures["yes_no"] == pytest.approx(2 / 3)
    assert own.guesses["yes opening"].accuracy == pytest.approx(5 / 6)


def test_nothing_is_found_in_noise():
    quality = assess(rows_of(noise(200)), {}, ["word99"])
    for guess in quality.measures["f.jsonl"].guesses.values():
        assert not guess.alarming
    assert quality.findings == []


def test_a_telling_word_is_found_and_named():
    # "sea" stands in seven of ten matching answers and never in the others: 0.7 + half of the rest, give or take.
    pairs = noise(210, 1, ours="sea") + noise(90, 2)
    quality = assess(rows_of(pairs), {}, [])
    guess = quality.measures["f.jsonl"].guesses["bag of words"]
    assert 0.78 < guess.accuracy < 0.92
    assert next(iter(quality.words[0])) == "sea"
    [finding] = [finding for finding in quality.findings if "bag of words" in finding.message]
    assert finding.severity == "warning"
    assert "sea" in finding.fix
    assert {line for ((_, line),) in finding.places[:150]} <= set(range(1, 211))


def test_the_classifier_is_scored_on_prompts_it_has_not_seen():
    # Every word occurs in the two rows of one prompt only: whoever saw the other row would know all answers.
    pairs = [Pair(f"Prompt {i // 2}!" if i % 2 else f"prompt {i // 2}", f"u{i // 2}", f"v{i // 2}") for i in range(80)]
    own = measure(rows_of(pairs))
    assert own.guesses["bag of words"].accuracy == own.guesses["first word"].accuracy == 0.5
    apart = [Pair(f"Prompt {i}", pair.matching, pair.not_matching) for i, pair in enumerate(pairs)]
    assert measure(rows_of(apart)).guesses["bag of words"].accuracy > 0.7


def test_swapping_all_poles_mirrors_the_figures():
    pairs = noise(60, 3, ours="sea !", theirs="hill")
    plain, swapped = measure(rows_of(pairs)), measure(rows_of([pair.flipped() for pair in pairs]))
    for rule in ("bag of words", "character count", "first word"):
        assert swapped.guesses[rule].accuracy == plain.guesses[rule].accuracy
    assert swapped.guesses["longer, words"].accuracy == plain.guesses["shorter, words"].accuracy
    ours, theirs = telling_words(pairs)
    assert {"sea", "!"} <= set(ours)
    assert "hill" in theirs
    mirrored = telling_words([pair.flipped() for pair in pairs])[1]
    assert mirrored["sea"] == pytest.approx(-ours["sea"], rel=1e-3)


def test_character_count_learns_the_direction():
    pairs = [Pair(f"Prompt {i}", "a" * (3 + i % 4), "b" * (10 + i % 3)) for i in range(40)]
    own = measure(rows_of(pairs))
    assert own.guesses["character count"].accuracy == own.guesses["shorter, characters"].accuracy == 1.0
    [length] = [finding for finding in assess(rows_of(pairs), {}, []).findings if "shorter" in finding.message]
    # 40 right and none wrong: 20 the other way round would make them even.
    assert "about 20 rows" in length.fix
    # The widest gap, 3 letters against 12, is first found where the number leaves 0 in 4 and 2 in 3.
    assert length.places[0][0] == ("f.jsonl", 9)


def test_one_finding_of_all_files_or_of_the_file_it_holds_in():
    longer = [Pair(f"First {i} {w}", "a b c", "a b") for i, w in enumerate(FILLER)]
    shorter = [Pair(f"Second {i} {w}", "a b", "a b c") for i, w in enumerate(FILLER)]
    both = assess(rows_of(longer, "one") + rows_of(longer[:0] + shorter, "two"), {}, [])
    assert both.measures[TOGETHER].guesses["longer, words"].accuracy == 0.5
    lengths = [m for m in kinds(both, "warning") if "er, " in m]
    assert [message.rsplit(" ", 1)[1] for message in lengths] == ["one", "two"]


def test_leaks_swapped_poles_duplicates_and_answers():
    one = [Pair("What's up?", "fine", "bad"), Pair("And you?", "good", "so so"), Pair("and YOU", "so  so", "good")]
    two = [Pair("what\u2019s   UP", "great", "dull"), Pair("Tea?", "yes", "no"), Pair("tea", "yes please", "never")]
    rows = rows_of(one, "one") + rows_of(two, "two")
    repeats = find_repeats(rows)

    def lines(kind):
        return [[(row.file, row.line) for row in group] for group in repeats[kind]]

    assert lines("leaks") == [[("one", 1), ("two", 1)]]
    assert lines("swapped") == [[("one", 2), ("one", 3)]]
    assert lines("duplicates") == [[("two", 2), ("two", 3)]]
    assert lines("answers") == [[("one", 2), ("one", 3)]]
    quality = assess(rows, {"no prompt": [("two", 9)]}, [])
    assert kinds(quality, "error") == [
        "the same prompt in several files (1)",
        "the same prompt with the poles swapped (1)",
        "left out: no prompt (1)",
    ]
    severities = [finding.severity for finding in quality.findings]
    assert severities == sorted(severities)


def test_near_duplicates_agree_with_a_naive_jaccard():
    rng = random.Random(4)
    pairs = [Pair(" ".join(rng.sample("abcdefg", rng.randint(3, 7))), "x", "y") for _ in range(60)]
    pairs = list({pair.prompt: pair for pair in pairs}.values())
    expected = set()
    for i, first in enumerate(pairs):
        for j in range(i):
            one, other = set(first.prompt.split()), set(pairs[j].prompt.split())
            if len(one & other) / len(one | other) >= 0.8:
                expected.add((j + 1, i + 1))
    found = [(a.line, b.line) for a, b in find_repeats(rows_of(pairs))["near"]]
    assert expected
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_exactly_four_of_five_words_is_near():
    near = find_repeats(rows_of([Pair("a b c d", "x", "y"), Pair("a b c d e", "x", "z"), Pair("?!", "x", "w")]))["near"]
    assert [[row.line for row in pair] for pair in near] == [[1, 2]]


def test_names_match_from_the_beginning_of_a_word():
    pair = Pair("Are you an Introvert?", "An introverted one", "Reintroverted, no")
    assert mentions(pair, "introvert") == {"prompt": True, "matching": True, "not_matching": False}
    assert mentions(Pair("a.b", "axb", "A.Bc"), "a.b") == {"prompt": True, "matching": False, "not_matching": True}
    quality = assess(rows_of([pair, Pair("Tea?", "a", "b")]), {}, ["introvert", "extrovert"])
    assert [row.line for row in quality.named["introvert"]] == [1]
    assert kinds(quality, "warning") == ["mentions 'introvert' (1)"]


def test_p_is_that_of_the_binomial_test():
    pairs = [Pair(f"Prompt {i}", "a b" if i < 70 else "a", "c" if i < 70 else "c d") for i in range(100)]
    assert measure(rows_of(pairs)).guesses["longer, words"].p == binomtest(70, 100).pvalue
