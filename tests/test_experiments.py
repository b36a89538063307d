"""The tables of the experiments, from run directories written by hand."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.calibration_size import table as calibration_size
from experiments.causal_probe import table as causal_probe
from experiments.figures import Difference, Run, finished_runs
from experiments.mask_overlap import table as mask_overlap
from experiments.method_comparison import table as comparison
from experiments.mixing import table as mixing
from experiments.personas import table as personas
from experiments.sixteen_types import table as sixteen_types
from experiments.sparsity import table as sparsity
from experiments.switching import apart, difference, rate
from experiments.tables import BEGIN, END
from experiments.two_way_choice import table as two_way_choice
from tests.experiments_support import ABOVE, FEW, write_run


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
    for place, (who, p) in enumerate((("pirate", 0.9), ("pirate", 0.02), ("pirate2", 0.03))):
        where = tmp_path / f"{place}"
        write_run(where, "contrastive_taylor", [1.0], sparsity=0.06, persona=who, **{"choice/margin_p": p})
        os.utime(where / "status.json", (place, place))
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
    # The latest of two runs of the pirate. Holm over two: the smaller p doubles, and the larger is at least that.
    assert [line[personas.COLUMNS.index("p, Holm")] for line in lines] == ["0.04", "0.04"]


DELTA = {
    "choice/margin_delta": 0.2,
    "choice/margin_delta_low": 0.1,
    "choice/margin_delta_high": 0.3,
    "choice/margin_p": 0.01,
}


def test_always_saying_yes_is_no_finding(tmp_path):
    write_run(
        tmp_path / "a",
        "wanda",
        [1.0, 3.0],
        sparsity=0.4,
        persona="hallucination",
        always_yes=1.0,
        **DELTA,
    )
    # Where yes and no are two of a hundred words that answers begin with, a habit of saying yes decides little.
    write_run(tmp_path / "c", "lora", [1.0, 3.0], persona="power_seeking", **DELTA, **{"choice/always_yes": 1.0})
    write_run(tmp_path / "b", "prompt", [1.0, 3.0], persona="power_seeking", **DELTA)
    found = {run.method: two_way_choice.finding(run) for run in finished_runs(tmp_path)}
    mask, prompt = found["wanda"], found["prompt"]
    assert found["lora"].obstacle is None
    assert mask.claim == "hallucination/wanda"
    assert mask.verdict == "not testable here: always saying yes scores 100%"
    assert (mask.needs_control, prompt.needs_control) == (True, False)
    assert prompt.verdict == "holds"
    assert prompt.ours == "50.0% [50.0, 50.0] (dense 50.0%)"


def test_the_headline_is_judged_on_the_same_questions(tmp_path):
    for name, method, margins in (
        ("a", "contrastive_wanda", [1.0, 2.0]),
        ("b", "prompt", [0.5, 0.5]),
        ("c", "lora", [3.0, 3.0]),
        ("d", "wanda", [9.0, 9.0]),
    ):
        sparsity = 0.4 if "wanda" in method else None
        own = {"choice/margin": np.mean(margins)}
        write_run(tmp_path / name, method, margins, sparsity=sparsity, persona="power_seeking", **own)
    runs = {(run.persona, run.method): run for run in finished_runs(tmp_path)}
    prompt, lora = two_way_choice.between("power_seeking", runs)
    assert (prompt.claim, prompt.change.value) == ("power_seeking/contrastive_wanda-prompt", 1.0)
    # Against the best of the masks, not against the one that suits.
    assert (lora.claim, lora.change.value) == ("power_seeking/lora-masks", -6.0)


def test_the_dense_model_switches_to_one_of_two_opposite_poles(tmp_path):
    for name, own, dense in (("introvert", 0.5, -0.1), ("extrovert", 0.2, 0.1)):
        figures = {"choice/margin": own, "dense/choice/margin": dense, "opposite/choice/margin": -own}
        figures["capability/perplexity_ratio"] = 1.1
        where = tmp_path / "sparsity" / name
        write_run(where, "wanda", [own] * 6, sparsity=0.4, persona=name, dense=dense, **DELTA | figures)
    runs = finished_runs(tmp_path / "sparsity")
    assert [rate(runs, arm).value for arm in ("", "dense/", "opposite/")] == [1.0, 0.5, 0.0]
    report = sparsity.report(tmp_path, tmp_path)
    assert [finding.claim for finding in report.findings] == ["wanda_0.4"]
    assert report.findings[0].ours == "100.0% [100.0, 100.0] (dense 50%)"
    # The introvert's mask moves its answers by 0.6, the extrovert's by 0.1.
    assert report.findings[0].change.value == pytest.approx(0.35)
    assert report.findings[0].items == 6
    # Two poles make no radar plot.
    assert "<svg" in (tmp_path / "success.svg").read_text()
    assert not (tmp_path / "radar.svg").exists()


def test_masks_that_know_no_pole_part_nothing(tmp_path):
    # Both masks move the answers that the introvert would give by 0.3.
    write_run(tmp_path / "i", "wanda", [0.3], persona="introvert")
    write_run(tmp_path / "e", "wanda", [-0.3], persona="extrovert")
    masks = {run.persona: run for run in finished_runs(tmp_path)}
    assert apart(masks) == {("I-E", "question 0"): 0.0}
    assert apart({"introvert": masks["introvert"]}) == {}
    assert difference(masks, {}) is None
    assert difference(masks, masks).value == 0.0


def test_what_all_masks_do_alike_does_not_count_for_a_type(tmp_path):
    def run(name, changes):
        path = tmp_path / name
        (path / "samples").mkdir(parents=True)
        rows = [{"id": i, "values": {"margin_I-E": 1.0 + c}, "dense_values": {"margin_I-E": 1.0}} for i, c in changes]
        rows.append({"id": 9, "values": {"margin_I-E": None}, "dense_values": {"margin_I-E": None}})
        (path / "samples" / "questionnaire.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Run(path, {}, {"capability/perplexity_ratio": 1.0})

    # Every mask moves the axis by 5 towards I; types move it by 3, 1 more to their own side.
    types = {"infp": run("a", [(0, 8.0), (1, 6.0)]), "estj": run("b", [(0, 2.0), (1, 4.0)])}
    finding = sixteen_types.finding("I-E", types)
    assert (finding.change.value, finding.items) == (2.0, 2)
    types["intj"] = run("c", [(0, 8.0), (1, 6.0)])
    assert sixteen_types.finding("I-E", types).change.value == 2.0
    assert sixteen_types.finding("I-E", {"infp": types["infp"]}) is None


def test_a_part_undoes_what_it_takes_from_the_effect():
    restored = {
        "q_proj": {"change": -0.1, "low": -0.2, "high": 0.0, "p_fdr": 0.5},
        "up_proj": {"change": -0.4, "low": -0.5, "high": -0.3, "p_fdr": 0.01},
        "k_proj": {"change": 0.6, "low": 0.5, "high": 0.7, "p_fdr": 0.01},
    }
    figures = {"items": 6, "masked": 1.0, "dense": 0.5, "restored": restored}
    finding = causal_probe.finding("feeler", figures, ABOVE, 1.0)
    assert finding.ours.startswith("up_proj")
    assert finding.change == Difference(0.4, 0.3, 0.5, 0.01)
    assert finding.verdict == "holds"
    restored["up_proj"]["p_fdr"] = 0.2
    assert causal_probe.finding("feeler", figures, ABOVE, 1.0).verdict == "not shown: change may be zero"
    assert causal_probe.finding("feeler", figures, FEW, 1.0).verdict.startswith("not testable here: the mask is not")


def test_entries_differ_in_the_mlp_of_a_layer_minus_its_attention():
    linear = {
        "model.layers.0.self_attn.q_proj": {"differing": 0.1, "entries": 100},
        "model.layers.0.self_attn.k_proj": {"differing": 0.4, "entries": 50},
        "model.layers.0.mlp.up_proj": {"differing": 0.5, "entries": 10},
    }
    assert mask_overlap.mlp_minus_attention({"linear": linear}) == pytest.approx([0.5 - 30 / 150])


def test_gains_are_pooled_over_the_items_of_all_personas(tmp_path):
    ratio = {"capability/perplexity_ratio": 1.0, "random/capability/perplexity_ratio": 1.0}
    for pairs, margins in ((5, [1.0, 1.0]), (20, [2.0, 4.0])):
        write_run(tmp_path / "calibration_size" / str(pairs), "wanda", margins, sparsity=0.2, pairs=pairs, **ratio)
    gain_of, more = calibration_size.report(tmp_path, tmp_path).findings
    assert (gain_of.change.value, gain_of.controls[0].difference.value) == (3.0, 2.0)
    assert more.change.value == 2.0


def test_axes_are_compared_by_the_size_of_their_change():
    axes = [np.array([-2.0, -2.0]), np.array([1.0, 1.0])]
    assert mixing.larger(axes, [np.array([0.5, 0.5])]) == Difference(1.0, 1.0, 1.0, 0.0)
    assert mixing.changes(SimpleNamespace(items=lambda _: SimpleNamespace(samples=[
        {"values": {"margin": 1.0}, "dense_values": {"margin": 0.25}}
    ]))).tolist() == [0.75]  # fmt: skip
