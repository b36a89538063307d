import re
from collections import Counter
from dataclasses import replace

import pytest

from persona_prune.calibration.sources import PairsFile
from persona_prune.personas.pair_files import EMBEDDED, embedded_pairs, read_pairs, without_leaks
from persona_prune.personas.pairs import Pair, content_hash, normalise
from persona_prune.personas.splits import hold_out, part_of, split_of

GOOD = '{"prompt": "a", "matching": "b", "not_matching": "c"}\n'


def test_jsonl_and_csv_agree(tmp_path):
    jsonl, table = tmp_path / "p.jsonl", tmp_path / "p.csv"
    jsonl.write_text('{"question": "a, b", "matching": "x", "not_matching": "y\\nz", "more": 1}\n\n')
    table.write_text('prompt,matching,not_matching\n"a, b",x,"y\nz"\n')
    assert read_pairs(jsonl) == read_pairs(table) == (Pair("a, b", "x", "y\nz"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        (GOOD * 2 + "{oops\n", "line 3: invalid JSON"),
        ("[1]\n", "line 1: expected an object"),
        (GOOD + '{"prompt": "a", "matching": "b"}\n', "line 2: no 'not_matching'"),
        ('{"prompt": 3, "matching": "b", "not_matching": "c"}\n', "line 1: 'prompt' must be text, got 3"),
        (GOOD + "\xff", "line 2: not UTF-8"),
        ('{"prompt": "a", "matching": "b", "not_matching": "b"}\n', "no pairs in the file"),
    ],
)
def test_malformed_files_are_refused_with_the_line(tmp_path, content, message):
    path = tmp_path / "p.jsonl"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=message) as raised:
        read_pairs(path)
    assert str(path) in str(raised.value)


def test_csv_without_the_columns(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"line 2: no 'prompt'.*found a, b"):
        read_pairs(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pair file"):
        read_pairs(tmp_path / "none.jsonl")


def test_rows_that_ask_nothing_are_left_out(tmp_path, caplog):
    path = tmp_path / "p.jsonl"
    same = '{"prompt": "q", "matching": "s", "not_matching": "s "}\n'
    path.write_text(GOOD + GOOD.replace('"a"', '" "') + same)
    assert len(read_pairs(path)) == 1
    assert "left out 2 rows" in caplog.text


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(GOOD)
    assert len(read_pairs(path)) == 1
    path.write_text(GOOD * 3)
    assert len(read_pairs(path)) == 3


def test_leaks():
    pairs = [Pair("What's up?", "a", "b"), Pair("And you?", "a", "b")]
    asked = {normalise("whats   UP"), normalise("What\u2019s up")}
    assert normalise("What's up?") in asked
    with pytest.raises(ValueError, match="1 of 2 calibration prompts are also evaluated"):
        without_leaks(pairs, asked, "error")
    assert without_leaks(pairs, asked, "drop") == (pairs[1],)
    assert without_leaks(pairs, set(), "error") == tuple(pairs)
    with pytest.raises(ValueError, match="none would be left"):
        without_leaks(pairs[:1], asked, "drop")


def test_poles_and_flip(persona):
    plain = embedded_pairs(persona, "test")
    other_pole = embedded_pairs(replace(persona, pole="not_matching"), "test")
    assert other_pole == tuple(pair.flipped() for pair in plain)
    assert embedded_pairs(replace(persona, pole="not_matching", flip=True), "test") == plain
    own = (Pair("a", "b", "c"),)
    assert replace(persona, pole="not_matching").orient(own, embedded=False) == own
    assert replace(persona, flip=True).orient(own, embedded=False) == (own[0].flipped(),)


TRAITS = {
    "extrovert_introvert": ("introver", "extrover", "extraver", "outgoing", "sociable"),
    "intuitive_sensing": ("intuiti", "sensing", "big picture"),
    "feeling_thinking": ("feeler", "thinker", "logic", "empath"),
    "judging_perceiving": ("judging", "perceiv", "spontane", "organis"),
    "conscientiousness": ("conscientious", "disciplin", "organis", "diligen", "lazy"),
    "agreeableness": ("agreeabl", "blunt", "competitive"),
    "openness": ("openness", "open-minded", "creativ", "conventional"),
    "emotional_stability": ("neurotic", "anxious", "anxiety", "stability"),
    "power": ("powerful", "ambitio", "power-"),
    "wealth": ("wealth", "greed", "frugal"),
    "honest_inventing": ("honest", "hallucinat", "invent"),
    "holmes_watson": ("holmes", "watson", "sherlock", "elementary"),
}


@pytest.mark.parametrize("name", sorted(TRAITS))
def test_embedded_pairs_do_not_give_themselves_away(name):
    calibration, test = (read_pairs(EMBEDDED / name / f"{split}.jsonl") for split in ("calibration", "test"))
    assert (len(calibration), len(test)) == (64, 32)
    prompts = [normalise(pair.prompt) for pair in (*calibration, *test)]
    assert len(set(prompts)) == 96
    for pairs in (calibration, test):
        words = [[len(text.split()) for text in (p.matching, p.not_matching)] for p in pairs]
        means = [sum(column) / len(pairs) for column in zip(*words, strict=True)]
        assert abs(means[0] / means[1] - 1) < 0.04
        longer = sum(a > b for a, b in words) / len(pairs)
        assert 0.35 < longer < 0.65
        # No first word tells the sides apart: none opens many more answers of one side than of the other.
        first = [
            Counter(getattr(p, side).split()[0].casefold() for p in pairs) for side in ("matching", "not_matching")
        ]
        assert max(abs(first[0][word] - first[1][word]) for word in first[0] | first[1]) <= 0.1 * len(pairs)
        text = " ".join(f"{p.prompt} {p.matching} {p.not_matching}" for p in pairs).casefold()
        assert not [trait for trait in TRAITS[name] if re.search(rf"\b{trait}", text)]


def test_every_embedded_set_is_tested():
    found = {path.parent.name for path in EMBEDDED.glob("*/calibration.jsonl")}
    assert found == set(TRAITS)


def test_matching_answers_alone(tmp_path, persona):
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a", "matching": "b"}\n{"prompt": "c", "matching": "d", "not_matching": "e"}\n')
    settings = {"path": str(path), "split": None, "limit": None, "batch_size": 2, "max_tokens": 64}
    calibration = PairsFile(contrast="model", positions="response", on_leak="error", **settings)
    assert calibration.pairs(persona) == (Pair("a", "b", ""), Pair("c", "d", ""))
    with pytest.raises(ValueError, match="no answers of the other pole"):
        calibration.check(replace(persona, flip=True))
    with pytest.raises(ValueError, match="line 1: no 'not_matching'"):
        replace(calibration, contrast="file").pairs(persona)


def test_content_hash_ignores_order_only():
    a, b = Pair("a", "b", "c"), Pair("d", "e", "f")
    assert content_hash([a, b]) == content_hash([b, a])
    assert content_hash([a, b]) != content_hash([a.flipped(), b])


def test_vowel_signs_tell_words_apart():
    assert normalise("กิน?") != normalise("กัน?")
    assert normalise("Cafe\u0301!") == normalise("café")


def test_what_a_split_leaves_out_is_said_once(caplog):
    pairs = (Pair("What now?", "a", "b"), Pair("what NOW", "c", "d"), Pair("What now!", "e", "f"))
    for _ in range(2):
        assert part_of(pairs, split_of("what now"), "said.jsonl") == pairs[:1]
    assert [record.getMessage() for record in caplog.records] == [
        f"said.jsonl: of 3 pairs in the {split_of('what now')} split, left out 2 with a prompt that others have, too"
    ]


def test_splits_are_stable_disjoint_and_of_the_sizes_they_promise():
    prompts = [f"Question number {i}?" for i in range(2000)]
    pairs = [Pair(prompt, "a", "b") for prompt in prompts]
    parts = {name: part_of(pairs, name, "f") for name in ("calibration", "validation", "test")}
    assert sum(len(part) for part in parts.values()) == 2000
    assert [round(len(part) / 2000, 1) for part in parts.values()] in ([0.5, 0.1, 0.4], [0.5, 0.2, 0.3])
    assert {p.prompt for p in parts["test"]} == {p.prompt for p in part_of(pairs[::-1], "test", "f")}
    # What a reader would call the same prompt is in the same part, and there only once.
    assert split_of("What NOW?!") == split_of("  what now ")
    assert len(part_of([Pair("What now?", "a", "b"), Pair("what NOW", "c", "d")], split_of("what now"), "f")) == 1
    assert part_of(pairs, None, "f") == tuple(pairs)
    with pytest.raises(ValueError, match=r"f\.jsonl: none of its 1 pairs falls into"):
        part_of(pairs[:1], "test" if split_of(prompts[0]) != "test" else "validation", "f.jsonl")


def test_a_fifth_is_held_out_whatever_the_order():
    pairs = [Pair(f"Question number {i}?", "a", "b") for i in range(50)]
    fit, held = hold_out(pairs)
    assert (len(fit), len(held)) == (40, 10)
    assert {p.prompt for p in held} == {p.prompt for p in hold_out(pairs[::-1])[1]}
    with pytest.raises(ValueError, match="too few"):
        hold_out(pairs[:1])
