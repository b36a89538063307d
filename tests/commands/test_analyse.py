"""The command line, on hand-made run directories of the tiny model."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from persona_prune.analyse.__main__ import main
from persona_prune.analyse.hidden import hidden_states, similarity
from persona_prune.analyse.overlap import overlaps, total
from persona_prune.calibration.damage import Damage
from persona_prune.calibration.gradients import LowRank
from persona_prune.evaluators.choice import Choice
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.methods.low_rank_recipe import Recipe, Round, as_stored, damage_as_stored
from persona_prune.models.loaded import maskable_linears
from persona_prune.saved.low_rank_file import save_recipe
from persona_prune.saved.mask_file import save_mask
from persona_prune.saved.rebuilt_run import open_run

CONF = Path(__file__).parents[2] / "conf"
PROMPTS = ["What now?", "Work?", "Tell me a story."]


def quiet(label, total):
    return lambda done: None


@pytest.fixture(scope="module")
def linears(tiny):
    return maskable_linears(tiny.model)


def mask_of(linears, fingerprint: str, seed: int, gamma: float = 0.0) -> Mask:
    generator = np.random.default_rng(seed)
    shapes = {name: (m.out_features, m.in_features) for name, m in linears.items()}
    bits = {name: pack_bits(torch.from_numpy(generator.random(shape) < 0.8)) for name, shape in shapes.items()}
    return Mask(bits, shapes, fingerprint, {"method": "by hand", **({"gamma": gamma} if gamma else {})})


def node(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


@pytest.fixture
def run_directory(tmp_path, pair_file):
    def make(name: str, persona: dict[str, Any] | None = None, **method: Any) -> Path:
        choice = node("evaluator", "choice") | {"path": str(pair_file)}
        config = {
            "model": node("model", "tiny_random"),
            "persona": persona or node("persona", name),
            "method": {"name": "by_hand", **method},
            "evaluator": {"choice": choice},
        }
        directory = tmp_path / name
        (directory / ".hydra").mkdir(parents=True)
        (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
        return directory

    return make


@pytest.fixture
def two_runs(run_directory, tiny, linears):
    """An extrovert with soft gating, which its file says and its method leaves to it, and an introvert with none."""
    directories = run_directory("extrovert", gamma=None), run_directory("introvert")
    masks = mask_of(linears, tiny.fingerprint, 0, gamma=0.25), mask_of(linears, tiny.fingerprint, 1)
    for directory, mask in zip(directories, masks):
        save_mask(mask, directory / "persona.safetensors")
    return *directories, *masks


def refused(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


def test_masks_alone_need_no_model(two_runs, tmp_path, capsys):
    extrovert, introvert, first, second = two_runs
    for directory in (extrovert, introvert):
        (directory / "persona.safetensors").rename(tmp_path / f"{directory.name}.safetensors")
    output = tmp_path / "out"
    files = f"A={tmp_path}/extrovert.safetensors", f"{tmp_path}/introvert.safetensors"
    assert main([*files, "--output", str(output)]) == 0
    found = json.loads((output / "analysis.json").read_text())
    expected = total(overlaps(first, second).values()).figures()
    overlap = found["overlap"]["A-introvert"]
    assert overlap["all"] == pytest.approx(expected)
    assert found["masks"]["A"]["sparsity"] == pytest.approx(first.sparsity)
    assert [found["masks"][label]["gamma"] for label in ("A", "introvert")] == [0.25, 0.0]
    assert list(overlap["layer"]) == ["0", "1"]
    assert list(overlap["block"]) == ["attention", "MLP"]
    assert list(overlap["linear"]) == list(first.shapes)
    for division in ("block", "module", "layer", "linear"):
        assert sum(part["entries"] for part in overlap[division].values()) == first.weights
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("A-introvert  all"))
    assert f"{expected['differing']:.2%} ({expected['differing_by_chance']:.2%})" in line
    assert {file.name for file in output.iterdir()} == {"analysis.json", "overlap_A-introvert.png"}


def test_hidden_states_are_compared_under_each_runs_own_gamma(two_runs, tiny, tmp_path):
    extrovert, introvert, first, second = two_runs
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    arguments = [f"E={extrovert}", f"I={introvert}", "--cosine", "2", "--prompts", prompts, "--output", tmp_path / "o"]
    assert main([str(argument) for argument in arguments]) == 0
    found = json.loads((tmp_path / "o" / "analysis.json").read_text())["cosine"]
    assert found["prompts"] == PROMPTS[:2]
    states = {"dense": hidden_states(tiny, PROMPTS[:2])}
    for label, mask, gamma in (("E", first, 0.25), ("I", second, 0.0)):
        with masked(tiny.model, mask, model_fingerprint=tiny.fingerprint, gamma=gamma):
            states[label] = hidden_states(tiny, PROMPTS[:2])
    assert list(found["pairs"]) == ["E-I", "E-dense", "I-dense"]
    for pair, values in found["pairs"].items():
        a, b = pair.split("-")
        expected = similarity(states[a], states[b])
        assert values["mean"] == pytest.approx(expected.mean, abs=1e-6)
        assert values["last"] == pytest.approx(expected.last, abs=1e-6)


def test_the_sweep_measures_the_first_mask_on_the_runs_items(two_runs, tiny, persona, pair_file, tmp_path, capsys):
    extrovert, _, first, _ = two_runs
    output = tmp_path / "out"
    arguments = [extrovert, "--by", "layer", "--limit", "2", "--figure", "margin", "accuracy", "--output", output]
    assert main([str(argument) for argument in arguments]) == 0
    found = json.loads((output / "analysis.json").read_text())["restore"]
    assert (found["mask"], found["persona"], found["by"]) == ("extrovert", "extrovert", "layer")
    evaluator = Choice(path=str(pair_file), split=None, limit=2, batch_size=16)
    dense = evaluator.evaluate(tiny, persona, None, quiet).means()
    with masked(tiny.model, first, model_fingerprint=tiny.fingerprint, gamma=0.25):
        under_mask = evaluator.evaluate(tiny, persona, None, quiet).means()
    assert list(found["figures"]) == ["margin", "accuracy"]
    for figure, sweep in found["figures"].items():
        assert sweep["dense"] == pytest.approx(dense[figure], abs=1e-6)
        assert sweep["masked"] == pytest.approx(under_mask[figure], abs=1e-6)
        for part in sweep["restored"].values():
            assert part["value"] == pytest.approx(sweep["masked"] + part["change"])
            assert part["low"] <= part["change"] <= part["high"]
    with (output / "restore.csv").open() as file:
        rows = {(row["figure"], row["layer"]): row for row in csv.DictReader(file)}
    assert len(rows) == 4
    for (figure, layer), row in rows.items():
        restored = found["figures"][figure]["restored"][layer]
        assert {key: float(row[key]) for key in restored} == restored
    table = capsys.readouterr().out
    assert f"margin: {under_mask['margin']:+.4f} under extrovert, {dense['margin']:+.4f} dense" in table
    assert {file.name for file in output.iterdir()} == {
        "analysis.json",
        "restore.csv",
        "restore_margin.png",
        "restore_accuracy.png",
    }


def test_a_recipe_is_rebuilt_with_the_runs_model(run_directory, tiny, linears, tmp_path):
    generator = torch.Generator().manual_seed(0)

    def vectors(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    damage = {
        name: damage_as_stored(Damage(vectors(m.in_features).abs(), vectors(m.out_features).abs()))
        for name, m in linears.items()
    }
    gradients = {
        name: as_stored(LowRank(vectors(m.out_features, 2), vectors(2, m.in_features))) for name, m in linears.items()
    }
    recipe = Recipe(damage, [Round(gradients, 3.0)], tiny.fingerprint, {})
    mask, bits = recipe.mask(linears), mask_of(linears, tiny.fingerprint, 0)
    assert 0 < mask.sparsity < 1
    save_recipe(recipe, run_directory("extrovert") / "persona.safetensors", mask)
    save_mask(bits, tmp_path / "b.safetensors")
    arguments = [f"B={tmp_path}/b.safetensors", f"R={tmp_path}/extrovert", "--output", f"{tmp_path}/out"]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert found["overlap"]["B-R"]["all"] == pytest.approx(total(overlaps(bits, mask).values()).figures())


def test_masks_of_different_models_are_refused(two_runs, linears, tmp_path, capsys):
    extrovert, introvert, first, _ = two_runs
    save_mask(mask_of(linears, "another", 0), introvert / "persona.safetensors")
    error = refused(capsys, f"E={extrovert}", f"I={introvert}", "--output", tmp_path / "out")
    assert f"E and I are of different models (fingerprints {first.model_fingerprint} and another)" in error
    assert not (tmp_path / "out").exists()
    # Both of the other model, but the run has this one.
    save_mask(mask_of(linears, "another", 1), extrovert / "persona.safetensors")
    (tmp_path / "p.jsonl").write_text('{"prompt": "Why?"}\n')
    wanted = ("--cosine", 1, "--prompts", tmp_path / "p.jsonl", "--output", tmp_path / "out")
    assert "tiny_random as it is now and E are of different models" in refused(capsys, f"E={extrovert}", *wanted)


def test_refusals_name_the_fix(two_runs, tmp_path, capsys):
    extrovert, introvert, *_ = two_runs
    out = ("--output", tmp_path / "out")
    assert "no persona file at" in refused(capsys, extrovert, tmp_path, *out)
    assert "two masks are called E" in refused(capsys, f"E={extrovert}", f"E={introvert}", *out)
    assert "can't be a label" in refused(capsys, f"dense={extrovert}", f"I={introvert}", *out)
    assert "can't be a label" in refused(capsys, f"a/b={extrovert}", f"I={introvert}", *out)
    (extrovert / "persona.safetensors").rename(tmp_path / "e.safetensors")
    assert "name one with --run RUN_DIR" in refused(capsys, tmp_path / "e.safetensors", "--by", "layer", *out)
    # The other mask's run is not asked in its stead.
    both = (tmp_path / "e.safetensors", introvert)
    assert "name one with --run RUN_DIR" in refused(capsys, *both, "--by", "layer", *out)
    wanted = (tmp_path / "e.safetensors", "--run", tmp_path, "--by", "layer")
    assert "is no run directory" in refused(capsys, *wanted, *out)
    missing = ("--run", introvert, "--cosine", 1, "--prompts", tmp_path / "none.jsonl")
    assert "no prompt file at" in refused(capsys, tmp_path / "e.safetensors", *missing, *out)
    config = introvert / ".hydra" / "config.yaml"
    content = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(content | {"evaluator": {}}))
    assert "the run had no choice evaluator" in refused(capsys, introvert, "--by", "layer", *out)
    config.write_text(yaml.safe_dump(content | {"model": {**content["model"], "layers": 0}}))
    assert "its model cannot be built by this version" in refused(capsys, introvert, "--cosine", 1, *out)
    config.write_text(yaml.safe_dump({"model": {}}))
    assert "it lacks persona, method, evaluator" in refused(capsys, introvert, "--cosine", 1, *out)
    config.write_text("a: [")
    assert "not readable as YAML" in refused(capsys, introvert, "--cosine", 1, *out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "one mask alone"),
        (["a", "b", "--limit", "3"], "--limit and --figure are for --by"),
        (["a", "b", "--prompts", "f"], "--prompts is for --cosine"),
        (["a", "b", "--cosine", "0"], "must be at least 1, got 0"),
        (["a", "b", "--by", "row"], "invalid choice: 'row'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output", str(tmp_path)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_parts_of_a_mix_come_in_turn(run_directory):
    mix = node("persona", "mix") | {"name": "both", "weights": {"extrovert": 0.5, "introvert": 0.5}}
    run = open_run(run_directory("both", persona=mix))
    persona = run.persona()
    assert [(part.name, share) for part, share in persona.parts] == [("extrovert", 0.5), ("introvert", 0.5)]
    # Both poles are asked the same, and a prompt is taken once.
    own = open_run(run_directory("extrovert")).test_prompts(4)
    assert run.test_prompts(4) == own
    assert len(set(own)) == 4
    with pytest.raises(ValueError, match="prompts, asked for 100000"):
        run.test_prompts(100_000)
