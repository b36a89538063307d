"""Run directories and persona files made by version 0.1.0, before its modules moved, one of each persona format."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from persona_prune import Persona, PersonaSwitcher
from persona_prune.chat.__main__ import main as chat
from persona_prune.export.__main__ import main as export
from persona_prune.masks.mask import mask_digest
from persona_prune.models.loaded import same_weights
from persona_prune.report.__main__ import main as report
from persona_prune.saved.rebuilt_run import model_of, open_run

RUNS = sorted((Path(__file__).parents[1] / "reference" / "runs_of_0_1").iterdir())


@pytest.fixture(params=RUNS, ids=lambda run: run.name)
def old_run(request, tmp_path) -> Path:
    return Path(shutil.copytree(request.param, tmp_path / request.param.name))


def test_the_model_persona_and_items_are_built_again(old_run):
    run = open_run(old_run)
    assert run.model().name == "tiny_random"
    assert run.persona().name == "extrovert"
    assert len(run.choice(4).prompts(run.persona())) == 4


def test_the_mask_is_the_one_that_was_measured(old_run):
    loaded = model_of(Persona.load(old_run), None).load()
    persona = Persona.load(old_run)
    mask = persona.mask(loaded.linears)
    assert len(mask.model_fingerprint) == 16  # what version 0.1.0 knew of a model
    assert same_weights(mask.model_fingerprint, loaded.fingerprint)
    assert mask.sparsity == pytest.approx(json.loads((old_run / "metrics.json").read_text())["mask/sparsity"])
    if "mask_digest" in persona.manifest:
        assert mask_digest(mask) == persona.manifest["mask_digest"]
    with PersonaSwitcher(loaded, {"old": persona}) as switcher:
        switcher.switch("old")
        name, module = next(iter(loaded.linears.items()))
        assert torch.equal(module.weight == 0, ~mask.keep(name))


def test_runs_are_compared(tmp_path, capsys):
    for run in RUNS:
        shutil.copytree(run, tmp_path / "runs" / run.name)
    assert report([str(tmp_path / "runs"), "--output", str(tmp_path / "page")]) == 0
    assert "3 runs" in capsys.readouterr().out
    assert "extrovert" in (tmp_path / "page" / "comparison.html").read_text()


def test_they_chat_and_export(old_run, tmp_path, capsys):
    file = old_run / "persona.safetensors"
    assert chat([f"persona_file={file}", "prompt=Hello", "max_new_tokens=4", "json=true"]) == 0
    assert "extrovert" in json.loads(capsys.readouterr().out)["answers"]
    assert export([f"persona_file={file}", f"output_dir={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "config.json").is_file()
