"""Where a persona's model is when the persona is used from another directory, and what is said when it is gone."""

import dataclasses
import json
from pathlib import Path

import pytest

from persona_prune.export.__main__ import main
from persona_prune.masks.mask import Mask
from persona_prune.models import sources
from persona_prune.models.sources import HubModel
from persona_prune.runs.command_line import check_command_line
from persona_prune.runs.experiment import run_experiment
from persona_prune.runs.instantiating import ConfigError
from persona_prune.saved.mask_file import save_mask
from persona_prune.saved.persona import SavedPersona
from persona_prune.saved.rebuilt_run import model_of
from tests.masks.test_switching import random_mask

SMALL = ["evaluator=choice", "evaluator.choice.limit=2", "calibration.limit=4", "controls=[]", "tracker=none"]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """Nothing here may ask the hub: that is what went wrong."""
    load = sources.AutoTokenizer.from_pretrained

    def local_only(path, **options):
        assert Path(path).is_dir(), f"the hub was asked for {path}"
        return load(path, **options)

    monkeypatch.setattr(sources.AutoTokenizer, "from_pretrained", local_only)


@pytest.fixture
def project(tmp_path, monkeypatch, tiny):
    """A directory with a model in ``models/own``."""
    project = tmp_path / "project"
    tiny.model.save_pretrained(project / "models" / "own")
    tiny.tokenizer.save_pretrained(project / "models" / "own")
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    def go():
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")

    return go


def persona_with(path, tiny, **about) -> SavedPersona:
    drawn = random_mask(tiny.model, tiny.fingerprint, 3)
    description = {"method": "wanda", "persona": "p", "model": "llama3_8b", "gamma": 0.0, **about}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_mask(Mask(drawn.bits, drawn.shapes, drawn.model_fingerprint, description), path)
    return SavedPersona.load(path)


def test_a_run_with_a_relative_path_is_exported_from_anywhere(project, elsewhere, tmp_path, cache, capsys):
    """Its configuration says ``models/own``, which from elsewhere was taken for a repository of the hub."""
    command = ["model=llama3_8b", "model.path=models/own", "model.dtype=float32", "method=wanda", *SMALL]
    ((overrides, plan),) = check_command_line(command).jobs
    assert run_experiment(plan, overrides, skip_done=False).error is None
    elsewhere()
    run = project / plan.directory
    for source in (run, run / "persona.safetensors"):
        assert main([f"persona_file={source}", f"output_dir={tmp_path / source.name}"]) == 0
        assert json.loads((tmp_path / source.name / "persona_prune.json").read_text())["base_model"] is None
    # The file alone, moved away from its run, knows the place, too.
    (run / "persona.safetensors").rename(tmp_path / "alone.safetensors")
    alone = SavedPersona.load(tmp_path / "alone.safetensors")
    spec = model_of(alone, None)
    assert isinstance(spec, HubModel)
    assert spec.path == str(project / "models" / "own")
    assert spec.chat_template is not None, "of the YAML"
    (project / "models" / "own").rename(project / "models" / "moved")
    capsys.readouterr()
    assert main([f"persona_file={alone.path}", f"output_dir={tmp_path / 'never'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"its model was in {project / 'models' / 'own'}, which is gone: give model=DIRECTORY")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("typed", ["models/own", "./models/own", "models/../models/own"])
def test_files_of_earlier_versions_say_what_was_typed(project, elsewhere, tiny, typed):
    persona = persona_with(
        project / "outputs" / "s" / "run" / "persona.safetensors", tiny, model_source={"path": typed}
    )
    elsewhere()
    assert (project / "models" / "own").samefile(model_of(persona, None).path)
    named = dataclasses.replace(persona, model="own")
    assert (project / "models" / "own").samefile(model_of(named, None).path)


@pytest.mark.parametrize("typed", ["/no/such/model", "./own", "../own", "~/own-that-is-gone", "a/b/c"])
def test_a_directory_that_is_gone_is_said_and_no_hub_asked(tmp_path, tiny, typed):
    persona = persona_with(tmp_path / "persona.safetensors", tiny, model_source={"path": typed})
    with pytest.raises(FileNotFoundError, match="which is gone: give model=DIRECTORY"):
        model_of(persona, None)


@pytest.mark.parametrize("source", [{"path": "meta-llama/Meta-Llama-3-8B"}, {"path": 7}, None, "x", {}])
def test_a_model_of_the_hub_stays_one(tmp_path, tiny, source):
    persona = persona_with(tmp_path / "persona.safetensors", tiny, model_source=source)
    assert model_of(persona, None).path == "meta-llama/Meta-Llama-3-8B"
    other = persona_with(tmp_path / "other.safetensors", tiny, model="unknown", model_source=source)
    with pytest.raises(ValueError, match="which has no YAML here"):
        model_of(other, None)


@pytest.mark.parametrize("typed", ["/no/such/model", "./own", "a/b/c", "~/own-that-is-gone"])
def test_a_run_of_a_directory_that_is_not_there_is_found_by_the_check(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        check_command_line(["model=llama3_8b", f"model.path='{typed}'", "method=none", *SMALL])
    assert raised.value.problems == [f"model: no directory {typed}: give the model's with model.path=DIRECTORY"]
