import json
import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from persona_prune.export.__main__ import main
from persona_prune.export.model_card import Exported, model_card
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask
from persona_prune.models.loaded import LoadedModel
from persona_prune.saved.mask_file import save_mask
from persona_prune.saved.persona import SavedPersona
from tests.masks.test_switching import random_mask
from tests.saved.test_persona import ABOUT


@pytest.fixture(scope="module")
def mask(tiny) -> Mask:
    drawn = random_mask(tiny.model, tiny.fingerprint, 3)
    return Mask(drawn.bits, drawn.shapes, drawn.model_fingerprint, ABOUT)


@pytest.fixture
def run(mask, tmp_path):
    save_mask(mask, tmp_path / "persona.safetensors")
    return tmp_path


def export(run, *arguments: str) -> int:
    return main([f"persona_file={run}", f"output_dir={run / 'out'}", *arguments])


def logits_of(model, tokenizer) -> torch.Tensor:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What now?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        return model(**ids).logits


def masked_logits(tiny: LoadedModel, mask: Mask, gamma: float) -> torch.Tensor:
    with masked(tiny.model, mask, model_fingerprint=tiny.fingerprint, gamma=gamma):
        return logits_of(tiny.model, tiny.tokenizer)


@pytest.mark.parametrize(("arguments", "gamma"), [(["gamma=0"], 0.0), ([], 0.5)])
def test_a_plain_load_gives_the_masked_model(tiny, mask, run, capsys, arguments, gamma):
    assert export(run, *arguments) == 0
    assert f"checkpoint: {run / 'out'}" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(run / "out", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run / "out")
    assert torch.equal(logits_of(model, tokenizer), masked_logits(tiny, mask, gamma))
    assert model.generation_config.eos_token_id == tiny.model.generation_config.eos_token_id
    name, module = next((n, m) for n, m in model.named_modules() if n in mask.shapes)
    zero = module.weight == 0
    assert torch.equal(zero, ~mask.keep(name)) == (gamma == 0), name


def test_another_dtype_is_the_masked_model_rounded(tiny, mask, run):
    assert export(run, "dtype=bfloat16", "gamma=0") == 0
    model = AutoModelForCausalLM.from_pretrained(run / "out", dtype="auto")
    assert model.dtype == torch.bfloat16
    with masked(tiny.model, mask, model_fingerprint=tiny.fingerprint):
        expected = {name: weight.detach().bfloat16() for name, weight in tiny.model.named_parameters()}
    assert all(torch.equal(weight, expected[name]) for name, weight in model.named_parameters())


def test_what_is_in_folders_can_be_read_by_others(run, monkeypatch):
    """A tokenizer with several chat templates writes some of them into a folder."""
    save = PreTrainedTokenizerBase.save_pretrained

    def with_folder(self, directory, **kwargs):
        (directory / "additional_chat_templates").mkdir(mode=0o700)
        (directory / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
        return save(self, directory, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", with_folder)
    assert export(run) == 0
    folder = run / "out" / "additional_chat_templates"
    mask = os.umask(0)
    os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask
    assert (folder / "rag.jinja").stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_card_says_who_and_what_was_measured(run):
    metrics = {
        "choice/margin": -0.05,
        "choice/margin_low": -0.25,
        "choice/margin_high": 0.15,
        "choice/margin_p": 0.0002,
        "dense/choice/margin": -0.21,
        "capability/perplexity_ratio": 1.0062,
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert export(run, "gamma=0.25") == 0
    card = (run / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| margin, nats per token | -0.050 [-0.250, 0.150] | -0.210 | 0.0002 |" in card
    assert "| perplexity ratio, masked / dense | 1.006 |  |  |" in card
    assert "Measured with gamma 0.5; this checkpoint has 0.25." in card
    assert "Method: wanda (sparsity 0.25)" in card
    facts = json.loads((run / "out" / "persona_prune.json").read_text())
    assert facts["persona"] == ABOUT
    assert facts["gamma"] == 0.25


def test_an_earlier_export_is_replaced_and_nothing_else(run, capsys):
    out = run / "out"
    assert export(run, "gamma=0") == 0
    (out / "left.txt").write_text("of the earlier export")
    assert export(run, "gamma=0.5") == 0
    assert not (out / "left.txt").exists()
    assert json.loads((out / "persona_prune.json").read_text())["gamma"] == 0.5
    (out / "persona_prune.json").unlink()
    before = sorted(file.name for file in out.iterdir())
    capsys.readouterr()
    assert export(run) == 2
    assert (
        capsys.readouterr().err == f"error: output_dir={out} holds files that are no export: choose another directory\n"
    )
    assert sorted(file.name for file in out.iterdir()) == before
    assert [file.name for file in run.iterdir() if file.name.startswith(".")] == []


def test_others_may_read_what_others_may_read_otherwise(run):
    mask = os.umask(0o022)
    try:
        assert export(run) == 0
    finally:
        os.umask(mask)
    assert (run / "out").stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in (run / "out").iterdir()} == {0o644}


@pytest.mark.parametrize("stage", ["save", "figures"])
def test_a_failure_leaves_nothing_behind(run, monkeypatch, capsys, stage):
    if stage == "figures":
        (run / "metrics.json").write_text("[damaged")
    else:

        def full(self, directory, **settings):
            raise OSError("no space left on device")

        monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
    assert export(run) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sorted(file.name for file in run.iterdir()) == sorted(
        ["persona.safetensors", *(["metrics.json"] if stage == "figures" else [])]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dtyp=float32"], "dtyp: unknown key; did you mean dtype?"),
        (["dtype=float8"], "dtype=float8: must be 'float32', 'bfloat16' or 'float16'"),
        (["gamma=1"], "gamma=1: must be less than 1"),
        (["gamma=0", "gamma=0"], "gamma: given twice"),
        (["model=smollm_135m"], "model=smollm_135m: no such model, nor a directory; did you mean smollm2_135m?"),
        (["quickly"], "quickly: expected key=value, with a key of persona_file, output_dir, model, dtype, gamma"),
    ],
)
def test_mistakes_are_one_line(run, capsys, arguments, message):
    assert export(run, *arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (run / "out").exists()


def test_missing_values_and_help(capsys):
    assert main(["output_dir=x"]) == 2
    assert capsys.readouterr().err == "error: persona_file: no value; give one with persona_file=...\n"
    assert main(["--help"]) == 0
    assert "python -m persona_prune.export persona_file=FILE output_dir=DIR" in capsys.readouterr().out


def test_what_is_known_of_the_dense_model(run):
    persona = SavedPersona.load(run)
    known = {
        ("smollm2_135m", None): ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        ("llama3_8b", "meta-llama/Meta-Llama-3-8B"): ("meta-llama/Meta-Llama-3-8B", "llama3"),
        ("new", "someone/new"): ("someone/new", None),
        ("own", str(run)): (None, None),
    }
    for (model, path), (base, licence) in known.items():
        about = Exported(persona, model, path, dropped=0.1, gamma=0.0, dtype="float32")
        assert (about.base_model, about.licence) == (base, licence)
        card = model_card(about)
        assert ("4-bit" in card) == (model == "smollm2_135m")
        assert f"- Licence: {licence or 'that of the dense model'}" in card
