"""The tables of the experiments, from run directories written by hand."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.calibration_size import table as calibration_size
from experiments.capability import table as capability
from experiments.causal_probe import table as causal_probe
from experiments.figures import Difference, Run, finished_runs
from experiments.findings import beats
from experiments.mask_overlap import table as mask_overlap
from experiments.mixing import table as mixing
from experiments.personas import table as personas
from experiments.sixteen_types import table as sixteen_types
from experiments.sparsity import table as sparsity
from experiments.switching import apart, difference, rate
from experiments.tables import BEGIN, END
from experiments.two_way_choice import table as two_way_choice
from tests.experiments_support import ABOVE, FEW, write_run


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
    rose = {"dense/choice/accuracy": 0.4}
    write_run(tmp_path / "b", "prompt", [1.0, 3.0], persona="power_seeking", **DELTA, **rose)
    found = {run.method: two_way_choice.finding(run) for run in finished_runs(tmp_path)}
    mask, prompt = found["wanda"], found["prompt"]
    assert found["lora"].obstacle is None
    assert mask.claim == "hallucination/wanda"
    assert mask.verdict == "not testable here: always saying yes scores 100%"
    assert (mask.needs_control, prompt.needs_control) == (True, False)
    assert prompt.verdict == "holds"
    assert prompt.ours == "50.0% [50.0, 50.0] (dense 40.0%)"


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
    prompt, plain, lora = two_way_choice.between("power_seeking", runs)
    assert (prompt.claim, prompt.change.value) == ("power_seeking/contrastive_wanda-prompt", 1.0)
    assert (plain.claim, plain.change.value) == ("power_seeking/contrastive_wanda-wanda", -7.5)
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


def test_questions_keep_their_order_so_that_intervals_come_out_the_same(tmp_path):
    for persona in ("introvert", "extrovert"):
        write_run(tmp_path / persona, "wanda", list(range(20)), persona=persona)
    masks = {run.persona: run for run in finished_runs(tmp_path)}
    assert [prompt for _, prompt in apart(masks)] == [f"question {place}" for place in range(20)]


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
    restored["up_proj"]["p_fdr"] = 0.01
    assert causal_probe.finding("feeler", figures, FEW, 1.0).verdict.startswith("not shown: the mask is not")


def test_entries_differ_in_the_mlp_of_a_layer_minus_its_attention():
    linear = {
        "model.layers.0.self_attn.q_proj": {"differing": 0.1, "entries": 100},
        "model.layers.0.self_attn.k_proj": {"differing": 0.4, "entries": 50},
        "model.layers.0.mlp.up_proj": {"differing": 0.5, "entries": 10},
    }
    assert mask_overlap.mlp_minus_attention({"linear": linear}) == pytest.approx([0.5 - 30 / 150])


def test_a_question_that_two_poles_are_asked_counts_once(tmp_path):
    """Each one's opposite mask is the other's own, so that two poles say the same thing twice."""
    ratio = {"capability/perplexity_ratio": 1.0, "random/capability/perplexity_ratio": 1.0}
    for pairs, margins in ((5, [1.0, 1.0]), (20, [2.0, 4.0])):
        for persona, factor in (("introvert", 1.0), ("extrovert", 3.0)):
            values = [factor * margin for margin in margins]
            where = tmp_path / "calibration_size" / f"{persona}{pairs}"
            write_run(where, "wanda", values, sparsity=0.2, pairs=pairs, persona=persona, **ratio)
    gain_of, more = calibration_size.report(tmp_path, tmp_path).findings
    assert (gain_of.change.value, gain_of.items, gain_of.controls[0].difference.value) == (6.0, 2, 5.0)
    assert (more.change.value, more.items) == (4.0, 2)


def test_of_two_methods_the_one_that_was_last_asked_for_is_shown(tmp_path):
    ratio = {"capability/perplexity_ratio": 1.0, "random/capability/perplexity_ratio": 1.0}
    for place, (method, gain) in enumerate((("wanda", 1.0), ("sparse", 2.0))):
        where = tmp_path / "calibration_size" / method
        write_run(where, method, [gain], sparsity=0.2, pairs=20, **ratio)
        os.utime(where / "status.json", (place, place))

    def gains():
        return [found.change.value for found in calibration_size.report(tmp_path, tmp_path).findings]

    assert gains() == [2.0]
    (tmp_path / "calibration_size" / "wanda" / "status.json").touch()
    assert gains() == [1.0]


def test_a_mask_beats_a_prompt_only_if_it_beats_its_controls(tmp_path):
    """What any mask does is no merit of the method."""
    cost = {"opposite/capability/perplexity_ratio": 1.0, "choice/margin_vs_opposite_p": 0.001, "choice/accuracy": 0.6}
    beaten, lost = ({f"choice/margin_vs_opposite{end}": sign * size for end, size in (("", 0.2), ("_low", 0.2 - 0.1 * sign), ("_high", 0.2 + 0.1 * sign))} for sign in (1, -1))  # fmt: skip  # noqa: E501
    write_run(tmp_path / "a", "wanda", [1.0] * 8, sparsity=0.4, **cost, **beaten)
    write_run(tmp_path / "b", "sparse", [1.0] * 8, sparsity=0.4, **cost, **lost)
    write_run(tmp_path / "c", "prompt", [0.5] * 8)
    runs = {run.method: run for run in finished_runs(tmp_path)}
    assert beats("x", runs["wanda"], runs["prompt"]).verdict == "holds"
    assert beats("x", runs["sparse"], runs["prompt"]).verdict == "does not hold: against opposite below zero"
    assert beats("x", runs["prompt"], runs["wanda"]).verdict == "does not hold: change below zero"


def test_masks_with_nothing_in_common_overlap_as_little_as_random_ones():
    def overlap(kept):
        layers = {str(layer): {"jaccard_kept": kept} for layer in range(8)}
        return {"layer": layers, "all": {"jaccard_kept": kept, "jaccard_kept_by_chance": 0.25}}

    found = {"wanda": overlap(0.9), "sparse": overlap(0.89), "contrastive_wanda": overlap(0.6)}
    found["contrastive_sparse"] = overlap(0.27)
    verdicts = {method: mask_overlap._jaccard(method, found).verdict for method in found if method != "wanda"}
    assert verdicts["sparse"] == "not shown: a difference of 0.010 is too small to matter"
    assert verdicts["contrastive_wanda"] == "holds"
    assert verdicts["contrastive_sparse"].startswith("not testable here: random masks overlap hardly less (0.250)")


def test_few_losses_are_told_from_none_by_an_exact_test(tmp_path):
    def verdict(losses, gains):
        changes = [-1.0] * losses + [1.0] * gains + [0.0] * (100 - losses - gains)
        key = "local_questions/acc"
        rows = [{"values": {key: 0.5 + change / 2}, "dense_values": {key: 0.5 - change / 2}} for change in changes]
        where = tmp_path / f"{losses}-{gains}" / "samples"
        where.mkdir(parents=True)
        (where / "lm_eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        figures = {f"{arm}lm_eval/{key}{end}": 0.5 for arm in ("", "dense/") for end in ("", "_low", "_high")}
        node = {"lm_eval": {"metadata": {"local_questions": "questions.jsonl"}}}
        config = {"evaluator": node, "method": {"name": "wanda", "sparsity": 0.6}}
        run = Run(where.parent, config, figures | {"capability/perplexity_ratio": 1.0})
        return capability.finding(run).verdict

    assert verdict(0, 0) == "holds"
    assert verdict(1, 0) == "not shown: change may be zero"  # as few as one by chance: 3.7%, so p is 0.074
    assert verdict(20, 0) == "does not hold: change below zero"
    assert verdict(20, 20) == "not shown: change may be zero"


def test_a_part_that_adds_nothing_is_not_in_the_mix(tmp_path):
    write_run(tmp_path, "wanda", [1.0], sparsity=0.6, persona="mix", **{"mask/sparsity": 0.4202})
    mix = Run(tmp_path, {"persona": {"weights": {"introvert": 0.7, "thinker": 0.3}}, "method": {"sparsity": 0.6}}, {})
    mix.metrics["mask/sparsity"] = 0.4202
    assert mixing._missing("introvert", mix) is None
    assert mixing._missing("thinker", mix) == "of the 18% that thinker drops, only 0.02% are not dropped by the rest"
    mix.metrics["mask/sparsity"] = 0.5
    assert mixing._missing("thinker", mix) is None


def test_axes_are_compared_by_the_size_of_their_change():
    axes = [np.array([2.0, 2.0]), np.array([1.0, 1.0])]
    assert mixing.larger(axes, [np.array([-0.5, -0.5])]) == Difference(1.0, 1.0, 1.0, 0.0)
    # What moves the wrong way does not count, however far.
    assert mixing.larger([-axes[0], axes[1]], [np.array([0.5, 0.5])]).value == -1.0
    assert mixing.changes(SimpleNamespace(items=lambda _: SimpleNamespace(samples=[
        {"values": {"margin": 1.0}, "dense_values": {"margin": 0.25}}
    ]))).tolist() == [0.75]  # fmt: skip
