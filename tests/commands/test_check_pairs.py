import csv
import json

import pytest

from persona_prune.check_pairs import __main__ as check_pairs
from persona_prune.personas.pair_files import EMBEDDED
from persona_prune.personas.pairs import Pair

PAIRS = [Pair(f"Prompt {i} {'abcdefghij'[i % 10] * 3} q{i}", f"x{i} y", f"z{i} w") for i in range(20)]


def write(path, pairs):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(vars_of(pair)) + "\n" for pair in pairs))
    return str(path)


def vars_of(pair):
    return {"prompt": pair.prompt, "matching": pair.matching, "not_matching": pair.not_matching}


def plain(pairs):
    """The same prompts with answers that give nothing away: each stands on both sides equally often."""
    return [Pair(p.prompt, *(("a b", "c d") if i % 2 else ("c d", "a b"))) for i, p in enumerate(pairs)]


def test_lines_are_those_of_the_file_and_rows_left_out_say_why(tmp_path):
    path = tmp_path / "p.jsonl"
    bad = [Pair(" ", "a", "b"), Pair("q", "", "b"), Pair("q", "a", "a ")]
    lines = [json.dumps(vars_of(pair)) for pair in [PAIRS[0], bad[0], PAIRS[1], bad[1], bad[2], PAIRS[2]]]
    path.write_text("\n\n".join(lines))
    rows, left_out = check_pairs.read_rows(path, "p")
    assert [(row.line, row.pair) for row in rows] == [(1, PAIRS[0]), (5, PAIRS[1]), (11, PAIRS[2])]
    assert left_out == {
        "no prompt": [("p", 3)],
        "no matching": [("p", 7)],
        "both answers are the same": [("p", 9)],
    }


def test_csv_with_several_lines_in_a_cell(tmp_path):
    path = tmp_path / "p.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("question", "matching", "not_matching"), ("a", "b\nc", "d"), ("", "x", "y"), ("e", "f", "g")]
        )
    rows, left_out = check_pairs.read_rows(path, "p")
    assert [(row.line, row.pair.prompt) for row in rows] == [(2, "a"), (5, "e")]  # where a row begins
    assert left_out == {"no prompt": [("p", 4)]}


def test_a_leak_is_an_error_that_names_both_lines(tmp_path, capsys):
    one = write(tmp_path / "calibration.jsonl", PAIRS[:10])
    two = write(tmp_path / "test.jsonl", [*PAIRS[10:], PAIRS[3]])
    assert check_pairs.main([one, two]) == 1
    out = capsys.readouterr().out
    assert "error: the same prompt in several files (1)" in out
    assert "calibration.jsonl:4=test.jsonl:11" in out


def test_warnings_fail_only_when_strict(tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", [Pair(p.prompt, "Yes " + p.matching, "No " + p.not_matching) for p in PAIRS])
    assert check_pairs.main([path]) == 0
    out = capsys.readouterr().out
    assert '"yes opening" finds 100%' in out or '"first word" finds 100%' in out
    assert check_pairs.main([path, "--strict"]) == 1


def test_names_and_json(tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", [*PAIRS, Pair("One more", "Extroverted folk", "Quiet folk")])
    check_pairs.main([path, "--name", "extrovert", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["pairs"], report["prompts"], report["left_out"]) == (21, 21, {})
    assert report["names"] == {"extrovert": [["p.jsonl", 21]]}
    measures = report["measures"]["p.jsonl"]
    # "Extroverted folk" is longer than "Quiet folk"; x12 y and z12 w are equally long.
    assert measures["accuracy"]["longer, characters"]["accuracy"] == pytest.approx(10.5 / 20 * 20 / 21 + 0.5 / 21)
    assert {"severity", "message", "places", "fix"} == set(report["findings"][0])


def test_the_report_fits_a_hundred_columns_and_hides_nothing_from_the_terminal(tmp_path, capsys):
    odd = [Pair(f"{p.prompt} {'word ' * 40}", f"{p.matching} \x1b[31m", p.not_matching) for p in PAIRS]
    files = [write(tmp_path / f"{'long' * 12}_{i}.jsonl", odd[i * 5 :]) for i in range(4)]
    check_pairs.main([*files, "--name", "x1"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("content", "message"), [("{oops\n", "line 1: invalid JSON"), ("", "empty"), ('{"prompt": "a"}\n', "no 'matching'")]
)
def test_a_malformed_file_is_one_line_and_exit_code_2(tmp_path, capsys, content, message):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    assert check_pairs.main([str(path)]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 1
    assert message in streams.err


def test_the_same_file_twice_and_a_missing_one(tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", PAIRS)
    assert check_pairs.main([path, str(tmp_path / "." / "p.jsonl")]) == 2
    assert "given twice" in capsys.readouterr().err
    assert check_pairs.main([str(tmp_path / "none.jsonl")]) == 2
    assert "no pair file" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["p.jsonl", "--embedded", "all"], ["p.jsonl", "--name", " "]])
def test_bad_command_lines(arguments):
    with pytest.raises(SystemExit) as raised:
        check_pairs.main(arguments)
    assert raised.value.code == 2


def test_embedded_sets_by_name_and_in_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check_pairs, "EMBEDDED", tmp_path)
    write(tmp_path / "clean" / "calibration.jsonl", plain(PAIRS[:10]))
    write(tmp_path / "clean" / "test.jsonl", plain(PAIRS[10:]))
    write(tmp_path / "leaky" / "calibration.jsonl", [*PAIRS[:11], PAIRS[2]])
    write(tmp_path / "leaky" / "test.jsonl", PAIRS[10:])
    (tmp_path / "neutral").mkdir()
    assert check_pairs.main(["--embedded", "clean"]) == 0
    capsys.readouterr()
    assert check_pairs.main(["--embedded", "all"]) == 1
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in table[1:3]] == ["clean", "leaky"]
    assert (table[1][1], table[1][-2:]) == ("20", ["0", "0"])
    assert (table[2][1], table[2][-2:]) == ("22", ["1", "1"])
    assert check_pairs.main(["--embedded", "nothing"]) == 2
    assert "there are: clean, leaky" in capsys.readouterr().err


def test_the_project_s_own_sets_have_no_errors(capsys):
    assert (EMBEDDED / "extrovert_introvert").is_dir()
    assert check_pairs.main(["--embedded", "extrovert_introvert", "--name", "extrover", "--name", "introver"]) == 0
    assert "Trait name 'introver': 0 prompt, 0 matching, 0 not_matching" in capsys.readouterr().out
