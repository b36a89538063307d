import dataclasses
import subprocess
import sys

import pytest
import torch
import yaml

import persona_prune
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask
from persona_prune.models.by_name import load_model, model_spec
from persona_prune.models.loaded import maskable_linears
from persona_prune.models.sources import HubModel, RandomModel, WheelModel
from persona_prune.saved.mask_file import save_mask
from persona_prune.saved.method import SavedMask
from persona_prune.saved.persona import SavedPersona
from persona_prune.saved.rebuilt_run import model_of
from tests.masks.test_switching import random_mask

ABOUT = {
    "method": "wanda",
    "sparsity": 0.25,
    "gamma": 0.5,
    "persona": "extrovert",
    "model": "tiny_random",
}


@pytest.fixture
def mask(tiny) -> Mask:
    drawn = random_mask(tiny.model, tiny.fingerprint, 3)
    return Mask(drawn.bits, drawn.shapes, drawn.model_fingerprint, ABOUT)


@pytest.fixture
def file(mask, tmp_path):
    save_mask(mask, tmp_path / "persona.safetensors")
    return tmp_path / "persona.safetensors"


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(model, expected) -> bool:
    return all(torch.equal(now, before) for now, before in zip(model.parameters(), expected, strict=True))


def test_importing_the_package_loads_no_torch():
    code = "import sys, persona_prune; assert 'torch' not in sys.modules; print(*persona_prune.__all__)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "Persona PersonaSwitcher load_model\n"
    assert {"Persona", "PersonaSwitcher", "load_model"} <= set(dir(persona_prune))
    assert persona_prune.Persona is SavedPersona
    with pytest.raises(AttributeError, match="no attribute 'Personas'"):
        _ = persona_prune.Personas


def test_a_file_says_what_it_is(file):
    persona = SavedPersona.load(file)
    assert (persona.name, persona.method, persona.sparsity, persona.gamma) == ("extrovert", "wanda", 0.25, 0.5)
    assert (persona.description, persona.opposite, persona.model) == ("", None, "tiny_random")
    assert persona.manifest["description"] == ABOUT


def test_what_the_file_does_not_say_its_run_does(file):
    (file.parent / ".hydra").mkdir()
    config = {"persona": {"name": "another", "description": "Loud.", "opposite": "introvert"}}
    (file.parent / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    persona = SavedPersona.load(file.parent)
    assert (persona.name, persona.description, persona.opposite) == ("extrovert", "Loud.", "introvert")
    (file.parent / ".hydra" / "config.yaml").write_text("{damaged")
    assert SavedPersona.load(file).opposite is None


@pytest.mark.parametrize("bare", [True, False])
def test_applied_is_what_masked_makes(tiny, mask, file, bare):
    dense = weights(tiny.model)
    persona = SavedPersona.load(file)
    for gamma, used in ((None, 0.5), (0.0, 0.0)):
        with masked(tiny.model, mask, model_fingerprint=tiny.fingerprint, gamma=used):
            expected = weights(tiny.model)
        model = tiny.model if bare else tiny
        with persona.applied(model, gamma=gamma) as given:
            assert given is model
            assert same(tiny.model, expected)
        assert same(tiny.model, dense)


def test_two_at_once_are_refused(tiny, file):
    """The second would be taken off a model that is not dense."""
    dense = weights(tiny.model)
    persona = SavedPersona.load(file)
    with (
        persona.applied(tiny),
        pytest.raises(ValueError, match="is not dense"),
        persona.applied(tiny),
    ):
        pass
    assert same(tiny.model, dense)


def test_missing_foreign_and_damaged_files_are_refused(tiny, mask, tmp_path):
    with pytest.raises(FileNotFoundError, match="no persona file at"):
        SavedPersona.load(tmp_path)
    (tmp_path / "text.safetensors").write_text("not a persona")
    with pytest.raises(ValueError, match="is not a readable persona file"):
        SavedPersona.load(tmp_path / "text.safetensors")
    save_mask(Mask(mask.bits, mask.shapes, tiny.fingerprint, ABOUT | {"gamma": "much"}), tmp_path / "gamma.safetensors")
    with pytest.raises(ValueError, match="its manifest is damaged"):
        SavedPersona.load(tmp_path / "gamma.safetensors")
    save_mask(Mask(mask.bits, mask.shapes, "0123456789abcdef", ABOUT), tmp_path / "other.safetensors")
    with (
        pytest.raises(ValueError, match="fingerprint 0123456789abcdef"),
        SavedPersona.load(tmp_path / "other.safetensors").applied(tiny),
    ):
        pass


def test_models_by_name_directory_and_hub_id(tmp_path):
    wheel = model_spec("smollm2_135m", dtype="bfloat16")
    assert isinstance(wheel, WheelModel)
    assert (wheel.dtype, wheel.device) == ("bfloat16", "auto")
    llama = model_spec("llama3_8b")
    assert isinstance(llama, HubModel)
    assert llama.path == "meta-llama/Meta-Llama-3-8B"
    assert llama.chat_template is not None
    assert (llama.dtype, llama.revision) == ("auto", None)
    own = model_spec(str(tmp_path), device="cpu")
    assert isinstance(own, HubModel)
    assert (own.path, own.device) == (str(tmp_path), "cpu")
    hub = model_spec("someone/Some Model-7B")
    assert isinstance(hub, HubModel)
    assert (hub.path, hub.name) == ("someone/Some Model-7B", "Some_Model-7B")


def test_unknown_models_and_dtypes_are_refused():
    with pytest.raises(FileNotFoundError, match=r"model=smolm2_135m: no such model.*did you mean smollm2_135m"):
        model_spec("smolm2_135m")
    with pytest.raises(ValueError, match=r"model\.dtype=float8"):
        model_spec("smollm2_135m", dtype="float8")


def test_a_model_of_ones_own_needs_no_fields_to_be_loaded(monkeypatch):
    spec = object()
    monkeypatch.setattr("persona_prune.models.by_name.pkgutil.resolve_name", lambda _: lambda **_: spec)
    assert model_spec("tiny_random") is spec


def test_a_persona_finds_its_model(tiny, mask, file, tmp_path):
    persona = SavedPersona.load(file)
    named = model_of(persona, None)
    assert isinstance(named, RandomModel)
    assert named.load().fingerprint == tiny.fingerprint == load_model("tiny_random").fingerprint
    assert isinstance(model_of(persona, "smollm2_135m"), WheelModel)
    (tmp_path / ".hydra").mkdir()
    own = tmp_path / "own"
    own.mkdir()
    config = {
        "model": {
            "_target_": "persona_prune.models.sources.HubModel",
            "name": "own",
            "path": str(own),
            "revision": None,
        }
        | {"dtype": "auto", "device": "auto", "device_map": None, "chat_template": None},
        "persona": {},
        "method": {},
        "evaluator": {},
    }
    (tmp_path / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    of_run = model_of(SavedPersona.load(file), None)
    assert isinstance(of_run, HubModel)
    assert (of_run.path, of_run.dtype, of_run.device) == (str(own), "auto", "auto")
    changed = model_of(SavedPersona.load(file), None, dtype="bfloat16", device="cpu")
    assert changed == dataclasses.replace(of_run, dtype="bfloat16", device="cpu")
    with pytest.raises(ValueError, match=r"model\.dtype=float8"):
        model_of(SavedPersona.load(file), None, dtype="float8")
    nameless = {key: value for key, value in ABOUT.items() if key != "model"}
    (tmp_path / "alone").mkdir()
    save_mask(Mask(mask.bits, mask.shapes, tiny.fingerprint, nameless), tmp_path / "alone" / "persona.safetensors")
    with pytest.raises(ValueError, match="does not name its model: give it with model="):
        model_of(SavedPersona.load(tmp_path / "alone"), None)


def test_a_saved_mask_is_applied_as_it_was_measured(file, tiny):
    linears = maskable_linears(tiny.model)
    for given, used in ((None, 0.5), (0.25, 0.25), (0.0, 0.0)):
        mask = SavedMask(name="saved", path=str(file), gamma=given).load(linears)
        assert mask.description == {**ABOUT, "gamma": used}
