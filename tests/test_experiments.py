"""The tables of the experiments, from run directories written by hand."""

import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from experiments import claims, publish
from experiments.calibration_size import table as calibration_size
from experiments.causal_probe import table as causal_probe
from experiments.figures import Interval, Run, finished_runs
from experiments.findings import HOME, Finding, Found, claim_rows, load_found, paper
from experiments.mask_overlap import table as mask_overlap
from experiments.method_comparison import table as comparison
from experiments.mixing import table as mixing
from experiments.personas import table as personas
from experiments.sixteen_types import table as sixteen_types
from experiments.sparsity import table as sparsity
from experiments.switching import gain, rate
from experiments.tables import BEGIN, END, markdown, write_block
from experiments.two_way_choice import table as two_way_choice


def write_run(directory, method, margins, *, sparsity=None, persona="pirate", pairs=None, **metrics):
    """Write what a run leaves behind, with the given margin of every item; that of the dense model is 0."""
    (directory / ".hydra").mkdir(parents=True)
    (directory / "samples").mkdir()
    config = {"method": {"name": method}, "persona": {"name": persona, "flip": False}, "seed": 42}
    config |= {"model": {"name": "tiny"}, "calibration": {"limit": pairs}, "evaluator": {"choice": {}}}
    if sparsity is not None:
        config["method"]["sparsity"] = sparsity
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    figures = {f"choice/{name}": 0.5 for name in ("accuracy", "accuracy_norm", "margin")}
    figures |= {f"{name}_{end}": 0.5 for name in list(figures) for end in ("low", "high")}
    figures |= {f"dense/{name}": value for name, value in figures.items()} | {"mask/bytes": 1e6} | metrics
    (directory / "metrics.json").write_text(json.dumps(figures))
    rows = [
        {"id": place, "values": {"margin": margin}, "dense_values": {"margin": 0.0}, "random_values": {"margin": 1.0}}
        for place, margin in enumerate(margins)
    ]
    (directory / "samples" / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def group(tmp_path):
    write_run(tmp_path / "g" / "a", "wanda", [1.0, 2.0, 3.0], sparsity=0.2)
    write_run(tmp_path / "g" / "b", "random", [0.5, 0.5, 0.5], sparsity=0.2)
    write_run(tmp_path / "g" / "c", "sparse", [1.0, 1.0, 1.0], sparsity=0.4)
    return tmp_path


def test_a_method_is_paired_with_the_random_masks_of_its_own_sparsity(group, capsys):
    comparison.main(group)
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = {line[0].removeprefix("| "): line[comparison.COLUMNS.index("margin - random")] for line in lines}
    assert cells["wanda 0.2"].startswith("+1.50 [")
    assert cells["random 0.2"] == cells["sparse 0.4"] == ""


def test_the_personas_table_counts_only_masks_that_were_compared(tmp_path, capsys):
    write_run(tmp_path / "a", "contrastive_taylor", [1.0], sparsity=0.06, **{"choice/margin_p": 0.02})
    write_run(tmp_path / "b", "contrastive_taylor", [1.0], sparsity=0.06, **{"choice/margin_p": 0.03})
    write_run(tmp_path / "c", "wanda", [1.0], sparsity=0.2, **{"choice/margin_p": 0.001})
    write_run(tmp_path / "d", "contrastive_taylor", [1.0], sparsity=0.06)
    page = tmp_path / "README.md"
    page.write_text(f"Before\n{BEGIN}\nold\n{END}\nafter\n")
    personas.main(tmp_path, page)
    assert page.read_text().startswith("Before\n")
    assert page.read_text().endswith("after\n")
    assert "| pirate" in page.read_text()
    assert "old" not in page.read_text()
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| pirate")]
    # Holm over two: the smaller p doubles, and the larger is at least that.
    assert [line[personas.COLUMNS.index("p, Holm")] for line in lines] == ["0.04", "0.04"]


ABOVE, ACROSS, BELOW = Interval(0.2, 0.1, 0.3), Interval(0.1, -0.1, 0.3), Interval(-0.2, -0.3, -0.1)


def found(change=ABOVE, control=ABOVE, name="random", ratio=1.2, claim="I-E", obstacle=None):
    return Finding(claim, "1", "nats", change, control, name, ratio, 8, obstacle)


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (found(), "holds"),
        (found(ratio=1.5), "holds"),
        (found(ratio=1.51), "does not hold: perplexity ratio 1.51"),
        (found(ratio=2.0, control=BELOW), "does not hold: perplexity ratio 2.00; against random below zero"),
        (found(ratio=float("nan")), "does not hold: perplexity ratio nan"),
        (found(change=ACROSS), "not shown: change may be zero"),
        (found(control=ACROSS), "not shown: against random may be zero"),
        (found(change=ACROSS, control=BELOW), "does not hold: against random below zero"),
        (found(change=BELOW), "does not hold: change below zero"),
        (found(control=None), "not shown: random not measured"),
        (found(control=None, name="", ratio=None), "holds"),
        (found(obstacle="a shortcut"), "not testable here: a shortcut"),
        (found(change=Interval(0.0, 0.0, 0.0)), "not shown: change may be zero"),
    ],
)
def test_a_claim_holds_by_the_stated_rule(finding, verdict):
    assert finding.verdict == verdict


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
    Found("tiny", [found()]).save(home / "types")
    assert load_found(home / "types") == Found("tiny", [found()])
    claims.main(home)
    lines = (home / "README.md").read_text().splitlines()
    assert lines[0] == "Above."
    assert lines[-1] == "Below."
    assert "3 claims: holds 1, not testable here 1, not run yet 1." in lines
    assert any(line.startswith("| [Types](types/README.md) | moves | 1.0 | 1 | +0.200") for line in lines)


def test_a_finding_about_no_claim_is_refused(home):
    with pytest.raises(ValueError, match=r"types: paper\.yaml has no claim stranger"):
        claim_rows("types", Found("tiny", [found(claim="stranger")]), home)


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


def test_what_was_not_run_says_so(home):
    assert publish.block("types", publish.Report([], [], ""), home).startswith("Not run yet on this machine: `exp")


@pytest.mark.parametrize("folder", list(paper()))
def test_every_claim_has_a_folder_that_reports(folder, tmp_path):
    ids = [claim["id"] for claim in paper()[folder]["claims"]]
    assert len(ids) == len(set(ids))
    report = importlib.import_module(f"experiments.{folder}.table").report(tmp_path, tmp_path)
    assert not report.runs
    assert not report.findings
    write_block_of = (HOME / folder / "README.md").read_text()
    assert write_block_of.count("<!-- results -->") == write_block_of.count("<!-- /results -->") == 1


DELTA = {"choice/margin_delta": 0.2, "choice/margin_delta_low": 0.1, "choice/margin_delta_high": 0.3}


def test_always_saying_yes_is_no_finding(tmp_path):
    write_run(
        tmp_path / "a",
        "wanda",
        [1.0, 3.0],
        sparsity=0.4,
        persona="hallucination",
        **DELTA,
        **{"choice/always_yes": 1.0},
    )
    write_run(tmp_path / "b", "prompt", [1.0, 3.0], persona="power_seeking", **DELTA)
    mask, prompt = map(two_way_choice.finding, finished_runs(tmp_path))
    assert mask.claim == "hallucination/wanda"
    assert mask.verdict == "not testable here: always saying yes scores 100%"
    assert (mask.control_name, prompt.control_name) == ("random", "")
    assert prompt.verdict == "holds"
    assert prompt.ours == "50.0% [50.0, 50.0] (dense 50.0%)"


def test_the_dense_model_switches_to_one_of_two_opposite_poles(tmp_path):
    for name, own, dense, opposite in (("introvert", 0.5, -0.1, 0.4), ("extrovert", 0.2, 0.1, -0.2)):
        figures = {"choice/margin": own, "dense/choice/margin": dense, "opposite/choice/margin": opposite}
        figures["capability/perplexity_ratio"] = 1.1
        write_run(tmp_path / "sparsity" / name, "wanda", [own], sparsity=0.4, persona=name, **DELTA | figures)
    runs = finished_runs(tmp_path / "sparsity")
    assert [rate(runs, arm).value for arm in ("", "dense/", "opposite/")] == [1.0, 0.5, 0.5]
    assert gain(runs, "dense/").value == 0.5
    report = sparsity.report(tmp_path, tmp_path)
    assert [finding.claim for finding in report.findings] == ["wanda_0.4"]
    assert report.findings[0].ours == "100.0% [100.0, 100.0] (dense 50%)"
    # Two poles make no radar plot.
    assert "<svg" in (tmp_path / "success.svg").read_text()
    assert not (tmp_path / "radar.svg").exists()


def test_what_all_masks_do_alike_does_not_count_for_a_type():
    def run(change):
        key = "questionnaire/margin_I-E_delta"
        figures = {key: change, f"{key}_low": change, f"{key}_high": change, "capability/perplexity_ratio": 1.0}
        return Run(None, {}, figures)

    # Every mask moves the axis by 5 towards I; types move it by 3 more to their own side.
    finding = sixteen_types.finding("I-E", {"infp": run(8.0), "estj": run(2.0)}, run(5.0))
    assert finding.change.value == 3.0
    assert (finding.control.value, finding.control.low) == (3.0, 3.0)


def test_a_part_undoes_what_it_takes_from_the_effect():
    restored = {
        "q_proj": {"change": -0.1, "low": -0.2, "high": 0.0, "p_fdr": 0.5},
        "up_proj": {"change": -0.4, "low": -0.5, "high": -0.3, "p_fdr": 0.01},
        "k_proj": {"change": 0.6, "low": 0.5, "high": 0.7, "p_fdr": 0.01},
    }
    finding = causal_probe.finding("feeler", {"masked": 1.0, "dense": 0.5, "restored": restored}, 1.0, 6)
    assert finding.ours.startswith("up_proj")
    assert (finding.change.value, finding.change.low, finding.change.high) == (0.4, 0.3, 0.5)
    finding = causal_probe.finding("feeler", {"masked": 0.5, "dense": 1.0, "restored": restored}, 1.0, 6)
    assert finding.verdict.startswith("not testable here: the mask does not move")


def test_entries_differ_in_the_mlp_of_a_layer_minus_its_attention():
    linear = {
        "model.layers.0.self_attn.q_proj": {"differing": 0.1, "entries": 100},
        "model.layers.0.self_attn.k_proj": {"differing": 0.4, "entries": 50},
        "model.layers.0.mlp.up_proj": {"differing": 0.5, "entries": 10},
    }
    assert mask_overlap.mlp_minus_attention({"linear": linear}) == pytest.approx([0.5 - 30 / 150])


def test_gains_are_pooled_over_the_items_of_all_personas(tmp_path):
    ratio = {"capability/perplexity_ratio": 1.0}
    for pairs, margins in ((5, [1.0, 1.0]), (20, [2.0, 4.0])):
        write_run(tmp_path / "calibration_size" / str(pairs), "wanda", margins, sparsity=0.2, pairs=pairs, **ratio)
    gain_of, more = calibration_size.report(tmp_path, tmp_path).findings
    assert (gain_of.change.value, gain_of.control.value) == (3.0, 2.0)
    assert more.change.value == 2.0


def test_axes_are_compared_by_the_size_of_their_change():
    axes = [np.array([-2.0, -2.0]), np.array([1.0, 1.0])]
    assert mixing.larger(axes, [np.array([0.5, 0.5])]) == Interval(1.0, 1.0, 1.0)
    assert mixing.changes(SimpleNamespace(items=lambda _: SimpleNamespace(samples=[
        {"values": {"margin": 1.0}, "dense_values": {"margin": 0.25}}
    ]))).tolist() == [0.75]  # fmt: skip
