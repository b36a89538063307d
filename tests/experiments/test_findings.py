"""When a claim of the paper holds, and what its pages say."""

import importlib
from dataclasses import replace

import pytest
import yaml

from experiments import claims, publish
from experiments.figures import Difference, Run, finished_runs
from experiments.findings import (
    HOME,
    Control,
    Finding,
    Found,
    accuracy_doubts,
    claim_rows,
    controls_of,
    doubts_of,
    load_found,
    paper,
)
from experiments.method_comparison import table as comparison
from experiments.personas import table as personas
from experiments.tables import markdown, write_block
from tests.experiments_support import ABOVE, FEW, write_run

ACROSS, BELOW = Difference(0.1, -0.1, 0.3, 0.4), Difference(-0.2, -0.3, -0.1, 0.01)
NAN = Difference(float("nan"), float("nan"), float("nan"), float("nan"))


def found(change=ABOVE, ratio=1.2, controls=None, **more):
    controls = [Control("random", ABOVE, 1.3)] if controls is None else controls
    return Finding("I-E", "1", "nats", change, ratio, 8, tuple(controls), **{"needs_control": True, **more})


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (found(), "holds"),
        (found(ratio=1.5), "holds"),
        (found(ratio=1.51), "not testable here: the model is wrecked (perplexity ratio 1.51)"),
        (found(ratio=float("nan")), "not testable here: the model is wrecked (perplexity ratio nan)"),
        (found(ratio=2.0, about_cost=True), "does not hold: perplexity ratio 2.00, whatever these questions show"),
        (found(BELOW, ratio=2.0, about_cost=True), "does not hold: change below zero"),
        (found(ACROSS), "not shown: change may be zero"),
        (found(FEW), "not shown: change may be zero"),
        (found(NAN), "not shown: change may be zero"),
        (found(controls=[Control("random", ACROSS, 1.0)]), "not shown: against random may be zero"),
        (
            found(ACROSS, controls=[Control("random", ABOVE, 1.0), Control("opposite", BELOW, None)]),
            "does not hold: against opposite below zero",
        ),
        (found(BELOW), "does not hold: change below zero"),
        (found(controls=[]), "not shown: no control"),
        (found(controls=[], needs_control=False, ratio=None), "holds"),
        # What a wrecked model chooses is no evidence, neither for a claim nor against it.
        (found(controls=[Control("random", BELOW, 7.7), Control("opposite", ABOVE, 1.1)]), "holds"),
        (
            found(controls=[Control("random", ABOVE, 7.7)]),
            "not shown: every control is wrecked (perplexity ratio random 7.70)",
        ),
        (found(doubts=["a word takes over"]), "not shown: a word takes over"),
        (found(obstacle="a shortcut"), "not testable here: a shortcut"),
        (found(Difference(0.0, 0.0, 0.0, 1.0)), "not shown: change may be zero"),
    ],
)
def test_a_claim_holds_by_the_stated_rule(finding, verdict):
    assert finding.verdict == verdict


def test_a_difference_needs_values():
    with pytest.raises(ValueError, match="share no items"):
        Difference.mean([])
    five = Difference.mean([1.0, 2.0, 3.0, 1.0, 2.0])
    assert (five.value, five.p) == (1.8, 2 / 32)


def test_controls_are_read_with_what_they_cost():
    metrics = {f"choice/margin_vs_random{end}": value for end, value in (("", 0.2), ("_low", 0.1), ("_high", 0.3))}
    metrics |= {"choice/margin_vs_random_p": 0.01, "random/capability/perplexity_ratio": 3.0}
    assert controls_of(Run(None, {}, metrics), "choice/margin") == [Control("random", ABOVE, 3.0)]


@pytest.fixture
def home(tmp_path):
    """A folder of experiments with two claims, one of which nothing here can test."""
    (tmp_path / "types").mkdir()
    one, other = (
        {"id": "I-E", "claim": "moves", "paper": "1.0"},
        {"id": "b", "claim": "c", "paper": "2", "untestable": "no"},
    )
    about = {"title": "Types", "source": "Table 1", "claims": [one, other, {"id": "x", "claim": "later", "paper": "3"}]}
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump({"types": about}))
    for readme in (tmp_path / "README.md", tmp_path / "types" / "README.md"):
        readme.write_text("Above.\n<!-- results -->\nold\n<!-- /results -->\nBelow.\n")
    return tmp_path


def test_the_page_of_claims_counts_what_holds_what_is_untestable_and_what_was_not_run(home):
    Found("tiny", "seed 1", [found()]).save(home / "types")
    assert load_found(home / "types") == Found("tiny", "seed 1", [found()])
    claims.main(home)
    lines = (home / "README.md").read_text().splitlines()
    assert lines[0] == "Above."
    assert lines[-1] == "Below."
    assert "3 claims: holds 1, not testable here 1, not run yet 1." in lines
    assert any(line.startswith("| [Types](types/README.md) | moves | 1.0 | 1 | +0.200") for line in lines)


def test_a_finding_about_no_claim_is_refused(home):
    with pytest.raises(ValueError, match=r"types: paper\.yaml has no claim stranger"):
        claim_rows("types", Found("tiny", "", [replace(found(), claim="stranger")]), home)


def test_a_run_elsewhere_decides_what_no_run_here_can(home):
    rows = claim_rows("types", Found("large", "", [replace(found(), claim="b")]), home)
    assert [row[-1] for row in rows] == ["not run yet", "holds", "not run yet"]
    assert claim_rows("types", None, home)[1][-1] == "not testable here: no"


def test_a_margin_that_grows_without_the_accuracy_is_in_doubt(tmp_path):
    write_run(tmp_path / "a", "prompt", [1.0, 1.0])
    (run,) = finished_runs(tmp_path)
    assert accuracy_doubts(run, "choice") == ["the margin grew, the accuracy did not (50.0% to 50.0%)"]
    run.metrics["choice/accuracy"] = 0.75
    assert accuracy_doubts(run, "choice") == []


def test_doubts_name_the_run_where_there_are_several(tmp_path):
    shift = {"capability/neutral_first_word_shift": 0.5}
    write_run(tmp_path / "a", "wanda", [1.0], sparsity=0.4, **shift)
    write_run(tmp_path / "b", "sparse", [1.0], sparsity=0.4)
    runs = finished_runs(tmp_path)
    assert [doubt.partition(" changed")[0] for doubt in doubts_of(runs)] == [
        "pirate, wanda 0.4: On neutral prompts one first word"
    ]
    assert doubts_of([runs[0]])[0].startswith("On neutral")


def test_a_block_is_replaced_whole_and_again_the_same(home):
    readme = home / "README.md"
    for _ in range(2):
        write_block(readme, r"new \1 | x")
        assert readme.read_text() == "Above.\n<!-- results -->\nnew \\1 | x\n<!-- /results -->\nBelow.\n"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="has no <!-- results -->"):
        write_block(readme, "text")


def test_a_table_leaves_out_columns_without_a_figure():
    assert (
        markdown(["a", "b", "c"], [["1", "", "x|y"], ["2", "", ""]])
        == "| a | c |\n| --- | --- |\n| 1 | x\\|y |\n| 2 |  |"
    )


def test_a_page_stays_as_it_is_where_nothing_was_run(home):
    folder = HOME / "sparsity"
    before = (folder / "README.md").read_text()
    with pytest.raises(ValueError, match="no finished run for sparsity"):
        publish.main("sparsity", home)
    with pytest.raises(ValueError, match="no finished run"):
        comparison.main(home / "nowhere", home / "README.md")
    with pytest.raises(ValueError, match="no finished run"):
        personas.main(home / "nowhere", home / "README.md")
    assert (folder / "README.md").read_text() == before
    assert "old" in (home / "README.md").read_text()


def test_runs_of_different_questions_do_not_stand_in_one_table(tmp_path):
    write_run(tmp_path / "a", "wanda", [1.0], sparsity=0.4, pairs=8)
    write_run(tmp_path / "b", "wanda", [1.0], sparsity=0.6, pairs=16)
    runs = finished_runs(tmp_path)
    publish.alike(runs, ["calibration.limit"])
    with pytest.raises(ValueError, match=r"different calibration.limit .*8: .*/a, 16: .*/b"):
        publish.alike(runs)


def test_a_run_in_two_tables_took_its_time_once(tmp_path):
    write_run(tmp_path / "a", "wanda", [1.0], sparsity=0.4, **{"time/total_s": 8.0})
    write_run(tmp_path / "b", "sparse", [1.0], sparsity=0.4, **{"time/total_s": 0.5})
    runs = finished_runs(tmp_path)
    assert publish.seconds([*runs, runs[0]]) == 8.5


def test_a_run_that_failed_is_left_out(tmp_path, capsys):
    write_run(tmp_path / "a", "wanda", [1.0], sparsity=0.4)
    (tmp_path / "a" / "status.json").write_text('{"status": "failed", "error": "no memory"}')
    assert finished_runs(tmp_path) == []
    assert "no memory" in capsys.readouterr().err


@pytest.mark.parametrize("folder", list(paper()))
def test_every_claim_has_a_folder_that_reports(folder, tmp_path):
    ids = [claim["id"] for claim in paper()[folder]["claims"]]
    assert len(ids) == len(set(ids))
    report = importlib.import_module(f"experiments.{folder}.table").report(tmp_path, tmp_path)
    assert not report.runs
    assert not report.findings
    write_block_of = (HOME / folder / "README.md").read_text()
    assert write_block_of.count("<!-- results -->") == write_block_of.count("<!-- /results -->") == 1
