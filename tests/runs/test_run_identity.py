"""What makes two runs one and the same, and what makes another of them."""

import json

import torch

from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.personas.splits import split_of
from persona_prune.saved.mask_file import save_mask
from tests.config_support import plan

PARTS = ("calibration", "validation", "test")


def test_run_directory(in_tmp):
    one, other = plan(), plan("calibration.limit=3")
    assert one.name == other.name == "smollm2_135m-extrovert-contrastive_taylor-0.1-seed42"
    assert one.directory != other.directory
    assert one.directory.parent == other.directory.parent
    assert plan("tracker=none").directory == one.directory
    assert str(plan("output_dir=here").directory) == "here"
    assert plan("output_dir=here", sweep=True).directory.parent.name == "here"
    assert "flipped" in plan("persona.flip=true").name


def test_a_changed_file_is_another_run(in_tmp, pair_file):
    files = ["calibration=pairs", f"calibration.path={pair_file}"]
    before = plan(*files).config_hash
    assert plan(*files).config_hash == before
    pair_file.write_text(pair_file.read_text().replace("Dancing.", "Dancing, all of it."))
    assert plan(*files).config_hash != before


def test_steering_is_made_from_its_validation_pairs_as_well(in_tmp):
    prompts = {part: [p for p in map("Question {}?".format, range(60)) if split_of(p) == part][:3] for part in PARTS}
    path = in_tmp / "pairs.jsonl"

    def hashes(validated):
        answers = {"calibration": "Yes.", "validation": validated, "test": "Yes."}
        rows = [
            {"prompt": p, "matching": answers[part], "not_matching": "No."} for part in PARTS for p in prompts[part]
        ]
        path.write_text("\n".join(map(json.dumps, rows)))
        files = ["calibration=pairs", f"calibration.path={path}", "calibration.split=calibration"]
        return [plan(*files, f"method={method}").config_hash for method in ("steering", "wanda")]

    before, after = hashes("Yes."), hashes("Of course.")
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_saved_mask_is_what_its_file_holds(in_tmp, monkeypatch):
    monkeypatch.setenv("HOME", str(in_tmp))
    path = in_tmp / "saved.safetensors"
    hashes = []
    for value in (True, False):
        bits = pack_bits(torch.full((1, 8), value))
        save_mask(Mask({"a": bits}, {"a": (1, 8)}, "f", {}), path)
        hashes.append(plan("method=saved", "method.path='~/saved.safetensors'").config_hash)
    assert hashes[0] != hashes[1]


def test_a_model_in_a_directory_that_changed_makes_another_run(in_tmp):
    (in_tmp / "own").mkdir()
    hashes = []
    for content in ("{}", "{ }"):
        (in_tmp / "own" / "config.json").write_text(content)
        (in_tmp / "own" / "gone").unlink(missing_ok=True)
        (in_tmp / "own" / "gone").symlink_to("nowhere")
        hashes.append(plan("model=llama3_8b", "model.path=own", "method=wanda").config_hash)
    assert hashes[0] != hashes[1]


def test_other_figures_by_a_later_version_are_another_run(in_tmp, monkeypatch):
    before = plan("method=wanda").config_hash
    monkeypatch.setattr("persona_prune.calibration.signatures.VERSION", -1)
    assert plan("method=wanda").config_hash != before


def test_config_is_plain_json(in_tmp):
    json.dumps(plan().config)
