"""Blind rating: what the page shows and hides, and what ratings of it say."""

import json
import random
import re

import pytest

from persona_prune.rate.__main__ import main
from persona_prune.rate.figures import agreements, groups, preference, with_judges
from persona_prune.rate.page import page
from persona_prune.rate.ratings import read_raters
from tests.rate_runs import asked, export, prompted, say, spoken, write_spoken


@pytest.fixture
def run(tmp_path):
    return write_spoken(tmp_path / "run", [spoken(i) for i in range(8)])


@pytest.fixture
def prompted_run(tmp_path):
    return write_spoken(tmp_path / "prompted", [prompted(i) for i in range(8)])


def test_a_ballot_shows_the_greedy_answers_of_one_prompt(run):
    ballots = asked(run).ballots
    assert len(ballots) == 8
    for ballot in ballots:
        number = re.search(r"\d+", ballot.prompt)[0]
        assert ballot.about == "Very extrovert."
        assert {ballot.persona, ballot.other} == {ballot.shown["first"], ballot.shown["second"]}
        assert ballot.persona == f"I'd call everybody, {number} times."
        assert ballot.other == f"Reading is one of {number} options."
        assert ballot.judged == (0.8, 0.4)


def test_the_persona_is_first_on_half_of_the_ballots_and_the_seed_says_on_which(tmp_path):
    run = write_spoken(tmp_path / "run", [spoken(i) for i in range(40)])
    first, again, other = asked(run), asked(run), asked(run, seed=7)
    assert first == again
    assert sum(ballot.persona_first for ballot in first.ballots) == 20
    sides = [{ballot.prompt: ballot.persona_first for ballot in one.ballots} for one in (first, other)]
    assert sides[0] != sides[1]
    assert [ballot.prompt for ballot in first.ballots] != [ballot.prompt for ballot in other.ballots]
    assert first.digest != other.digest


def test_with_the_other_sides_nothing_changes_but_the_sides(run, prompted_run, monkeypatch):
    """So neither the order nor the ids tell who is where."""
    there = asked(run, prompted_run).ballots
    sample = random.Random.sample
    others = lambda self, places, count: sorted({*places} - {*sample(self, places, count)})  # noqa: E731
    monkeypatch.setattr(random.Random, "sample", others)
    back = asked(run, prompted_run).ballots
    swapped = [ballot.shown | {"first": ballot.shown["second"], "second": ballot.shown["first"]} for ballot in back]
    assert [ballot.shown for ballot in there] == swapped


def test_the_page_names_no_arm_no_run_and_nothing_outside_itself(prompted_run):
    text = page(asked(prompted_run, against=["dense", "with_prompt"]))
    for word in ("dense", "with_prompt", "masked", "judge", "persona_first", "0.8", str(prompted_run), "wanda"):
        assert word not in text
    assert not re.search(r"https?://|src=|@import|url\(", text)


def test_the_page_carries_markup_in_answers_as_text(tmp_path):
    evil = "</script><script>alert(1)</script><!-- {{ x }}"
    run = write_spoken(tmp_path / "run", [spoken(0, answer=evil, prompt="<b>&amp;</b>"), spoken(1)])
    text = page(asked(run))
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<b>" not in text
    content = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert evil in {ballot[side] for ballot in content["ballots"] for side in ("first", "second")}


def test_against_dense_and_the_prompt_where_it_spoke(run, prompted_run):
    assert list(asked(run, prompted_run).same) == [(0, "dense"), (1, "dense"), (1, "with_prompt")]
    assert list(asked(prompted_run, against=["with_prompt"]).same) == [(0, "with_prompt")]


def test_ballots_of_one_prompt_are_far_from_each_other(prompted_run):
    prompts = [ballot.prompt for ballot in asked(prompted_run).ballots]
    assert prompts[:8] == prompts[8:]
    assert len(set(prompts[:8])) == 8


def test_limit_draws_the_same_prompts_of_every_run(run, prompted_run):
    found = groups(asked(run, prompted_run, limit=3)).values()
    assert [len(ballots) for ballots in found] == [3, 3, 3]
    assert len({frozenset(ballot.prompt for ballot in ballots) for ballots in found}) == 1


def test_the_same_answer_twice_is_not_asked_but_counted(tmp_path, capsys):
    items = [spoken(0), spoken(1, dense_answer="I'd call  everybody, 1 times.\n"), spoken(2)]
    run = write_spoken(tmp_path / "run", items)
    found = asked(run)
    assert len(found.ballots) == 2
    assert found.same == {(0, "dense"): 1}
    assert main([str(run), "--output", str(tmp_path / "rate.html")]) == 0
    assert "dense: 1 prompt with the same answer twice" in capsys.readouterr().out


def test_flipped_personas_and_parts_of_a_mix_are_described(tmp_path):
    flipped = {"name": "extrovert", "description": "Loud.", "flip": True}
    mix = {"name": "mix", "description": "Several.", "weights": {"extrovert": 0.5, "thinker": 0.5}, "flip": False}
    first = asked(write_spoken(tmp_path / "x", [spoken(0)], persona="x")).ballots[0]
    assert first.about == "Very x."
    for number, (node, shown, about) in enumerate(
        [
            (flipped, "introvert", "The opposite of extrovert: Loud."),
            (mix, "thinker", "Decides by reasons, evidence and consistency."),
            (mix | {"flip": True}, "introvert", "The opposite of extrovert: Energised by company"),
            (mix, "mix", "Several."),
        ]
    ):
        directory = write_spoken(tmp_path / str(number), [spoken(0, persona="x") | {"persona": shown}])
        path = directory / ".hydra" / "config.yaml"
        path.write_text(json.dumps({"model": {"name": "m"}, "method": {"name": "x"}, "evaluator": {}, "persona": node}))
        assert asked(directory).ballots[0].about.startswith(about)


def test_preference_by_hand(run, tmp_path):
    """Five for the persona, one against, one tie, one nonsense: (5 + 1/2) / 7; sign test 5 : 1, p = 14 / 64."""
    found = asked(run)
    ours = say(found.ballots, *["persona"] * 5, "other", "tie", "nonsense")
    raters = read_raters([export(tmp_path / "a.json", found, ours)], found)
    result = preference(found.ballots, raters)
    assert (result.ratings, result.prompts, result.raters) == (8, 8, 1)
    assert result.preferred.mean == pytest.approx(5.5 / 7)
    assert result.preferred.low < 5.5 / 7 < result.preferred.high
    assert result.p == pytest.approx(14 / 64)
    assert (result.ties, result.nonsense) == (1 / 8, 1 / 8)


def test_two_raters_of_one_prompt_are_one_prompt(run, tmp_path):
    """The sign test counts prompts, not ratings: three for the persona by both, one on which they differ."""
    found = asked(run)
    files = [
        export(tmp_path / "a.json", found, say(found.ballots, "persona", "persona", "persona", "persona"), "Ann"),
        export(tmp_path / "b.json", found, say(found.ballots, "persona", "persona", "persona", "other"), "Bo"),
    ]
    result = preference(found.ballots, read_raters(files, found))
    assert (result.ratings, result.prompts, result.raters) == (8, 4, 2)
    assert result.preferred.mean == 7 / 8
    assert result.p == pytest.approx(2 / 8)


def test_agreement_with_the_judges_by_hand(tmp_path):
    """Judges lean to the persona on 0 and 1, to dense on 2, nowhere on 3; of the decided, two of three agree."""
    items = [spoken(0), spoken(1), spoken(2, persona=0.1), spoken(3, persona=0.4), spoken(4, values={})]
    found = asked(write_spoken(tmp_path / "run", items))
    by_number = {re.search(r"\d+", ballot.prompt)[0]: ballot for ballot in found.ballots}
    ballots = [by_number[str(i)] for i in range(5)]
    ours = say(ballots, "persona", "other", "other", "persona", "persona")
    result = with_judges(found.ballots, read_raters([export(tmp_path / "a.json", found, ours)], found))
    assert result.ratings == 3
    assert result.agreed.mean == pytest.approx(2 / 3)
    assert result.judges == pytest.approx(2 / 3)
    # Observed 2/3, by chance (1/3 x 2/3 + 2/3 x 1/3) = 4/9: (2/3 - 4/9) / (1 - 4/9) = 0.4
    assert result.kappa == pytest.approx(0.4)


def test_kappa_by_hand(run, tmp_path):
    """On the six ballots that both rated: the same on 4 of 6; by chance (3x3 + 2x2 + 1x1) / 36."""
    found = asked(run)
    ours = say(found.ballots, "persona", "persona", "persona", "other", "other", "tie", "tie")
    theirs = say(found.ballots, "persona", "persona", "other", "persona", "other", "tie")
    files = [export(tmp_path / f"{n}.json", found, said, n) for n, said in (("Ann", ours), ("Bo", theirs))]
    (one,) = agreements(found, read_raters(files, found))
    assert (one.names, one.ballots) == (("Ann", "Bo"), 6)
    assert one.same == pytest.approx(4 / 6)
    assert one.kappa == pytest.approx((4 / 6 - 14 / 36) / (1 - 14 / 36))


def test_kappa_of_raters_who_know_one_choice_is_undefined(run, tmp_path):
    found = asked(run)
    said = say(found.ballots, *["tie"] * 4)
    files = [export(tmp_path / f"{name}.json", found, said, name) for name in ("Ann", "Bo")]
    (one,) = agreements(found, read_raters(files, found))
    assert (one.same, one.kappa) == (1.0, None)


def test_from_page_to_figures(prompted_run, tmp_path, capsys):
    output = tmp_path / "rate.html"
    assert main([str(prompted_run), "--output", str(output), "--limit", "6"]) == 0
    said = capsys.readouterr().out
    assert f"12 ballots: {output}" in said
    assert f"{prompted_run} --seed 42 --limit 6 --ratings FILE" in said
    assert output.read_text().startswith("<!doctype html>")
    found = asked(prompted_run, limit=6)
    persona = say(found.ballots, *["persona"] * 12)
    files = [
        export(tmp_path / "a.json", found, persona, "Ann"),
        export(tmp_path / "b.json", found, persona | say(found.ballots, "nonsense", "other"), "Bo"),
        export(tmp_path / "c.json", found, say(found.ballots, "tie", "persona"), "Cy"),
    ]
    assert main([str(prompted_run), "--limit", "6", "--ratings", *map(str, files)]) == 0
    said = capsys.readouterr().out
    assert "Ann: 12 of 12 ballots, median 2.5 s each, answer 1 in 6 of 12 decided" in said
    assert "persona against dense: 1" in said
    assert "persona against with_prompt: 1" in said
    assert "the judges' AUC on written answers is 0.90" in said
    assert "Ann and Bo: kappa 0.00, the same choice on 83% of 12 ballots" in said
    assert "mean of 3 pairs of raters: kappa " in said


def test_a_run_that_nobody_rated_is_named(run, tmp_path, capsys):
    other = write_spoken(tmp_path / "second", [spoken(i, prompt=f"Second {i}?") for i in range(3)])
    found = asked(run, other)
    first = [ballot for ballot in found.ballots if ballot.run == 0]
    file = export(tmp_path / "a.json", found, say(first, "nonsense", "tie"))
    assert main([str(run), str(other), "--ratings", str(file)]) == 0
    said = capsys.readouterr().out
    assert "second, persona against dense: no ratings" in said
    assert "agrees with the judges -, no decided rating" in said


def test_all_nonsense_is_no_preference(run, tmp_path, capsys):
    found = asked(run)
    file = export(tmp_path / "a.json", found, say(found.ballots, *["nonsense"] * 8))
    assert main([str(run), "--ratings", str(file)]) == 0
    assert "persona preferred      -, all is nonsense; ties 0%, nonsense 100%" in capsys.readouterr().out


def refused(capsys, *arguments):
    code = main([*map(str, arguments)])
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    return said


def test_runs_without_anything_to_rate_are_refused(run, tmp_path, capsys):
    mute = write_spoken(tmp_path / "mute", [])
    assert "no samples/speech.jsonl; repeat the run with evaluator=speech" in refused(capsys, mute)
    alone = write_spoken(tmp_path / "alone", [{"id": 0, "prompt": "Hm?", "answer": "Yes.", "values": {}}])
    assert "dense did not speak" in refused(capsys, alone)
    same = write_spoken(tmp_path / "same", [spoken(0, answer="Yes.", dense_answer="Yes.")])
    assert "nothing to rate" in refused(capsys, same)
    assert "nothing was said by 'dens'; did you mean dense?" in refused(capsys, run, "--against", "dens")
    assert "--limit must be at least 1, got 0" in refused(capsys, run, "--limit", "0")
    assert "is a directory" in refused(capsys, run, "--output", tmp_path)
    assert "no such directory" in refused(capsys, tmp_path / "nowhere")
    (run / "samples" / "speech.jsonl").write_text('{"id": 0')
    assert "line 1 is no item" in refused(capsys, run)
    (run / "samples" / "speech.jsonl").write_text('{"id": 0, "values": {}, "prompt": "Hm?"}')
    assert "line 1 has no prompt or no answer" in refused(capsys, run)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"page": "0123456789abcdef"}, "rated on another page (0123456789abcdef, this is "),
        ({"page": "0123456789abcdef", "seed": 7}, "rated on another page (0123456789abcdef with --seed 7, this is "),
        ({"ballots": []}, "nothing is rated"),
        ({"ballots": [{"id": "x", "choice": "1", "seconds": 1}]}, "ballot 'x' is not on the page"),
        (
            {"ballots": [{"id": "x", "choice": "left", "seconds": 1}]},
            "ballots.0.choice='left': must be '1', '2', 'tie'",
        ),
        ({"ballots": [{"id": "x", "choice": "1", "seconds": -1}]}, "ballots.0.seconds=-1: must be greater than"),
        ({"ballots": [{"id": "x", "choice": "1"}]}, "ballots.0.seconds: Field required"),
        ({"rater": None}, "rater=None: must be a valid string"),
        ({"ballots": {}}, "ballots={}: must be a valid array"),
    ],
)
def test_ratings_that_make_no_sense_are_refused(run, tmp_path, capsys, changes, reason):
    file = export(tmp_path / "a.json", asked(run), {}, **changes)
    assert reason in refused(capsys, run, "--ratings", file)


def test_damaged_and_repeated_ratings_are_refused(run, tmp_path, capsys):
    found = asked(run)
    said = say(found.ballots, "persona")
    good = export(tmp_path / "a.json", found, said, "Ann")
    again = export(tmp_path / "b.json", found, said, "Ann")
    assert "are both by Ann: give the last one only" in refused(capsys, run, "--ratings", good, again)
    cut = tmp_path / "cut.json"
    cut.write_text(good.read_text()[:-9])
    assert f"{cut}: damaged: Invalid JSON" in refused(capsys, run, "--ratings", cut)
    cut.write_text("[]")
    assert f"{cut}: damaged: must be an object" in refused(capsys, run, "--ratings", cut)
    cut.write_text("")
    assert "the file is empty" in refused(capsys, run, "--ratings", cut)
    ballot = {"id": found.ballots[0].id, "choice": "tie", "seconds": 1.0}
    twice = export(tmp_path / "twice.json", found, {}, ballots=[ballot, ballot])
    assert "is there twice" in refused(capsys, run, "--ratings", twice)
    assert "No such file" in refused(capsys, run, "--ratings", tmp_path / "none.json")
    assert "rated on another page" in refused(capsys, run, "--limit", "3", "--ratings", good)
