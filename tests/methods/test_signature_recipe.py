"""What a signature mask is stored as: it must come back bit for bit, from a file that is far smaller."""

import itertools
import json
from dataclasses import fields, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from persona_prune.calibration.signatures import Signature, Statistics
from persona_prune.masks.mask import mask_digest
from persona_prune.methods.base import Layer, build_masks
from persona_prune.methods.contrastive_sparse import ContrastiveSparse
from persona_prune.methods.contrastive_wanda import ContrastiveWanda
from persona_prune.methods.magnitude import Magnitude
from persona_prune.methods.random import Random
from persona_prune.methods.signature_recipe import recipe_of
from persona_prune.methods.sparse import Sparse
from persona_prune.methods.wanda import Wanda
from persona_prune.runs.built import Built
from persona_prune.saved.mask_file import load_mask
from persona_prune.saved.persona_file import load_persona_mask, read_manifest
from persona_prune.saved.signature_file import FORMAT, save_recipe

COMMON = {"name": "own_name", "sparsity": 0.4, "gamma": 0.0, "overrides": ["mlp:0.7", "layers.1:0.25"]}
METHODS = {
    "wanda": Wanda(**COMMON, statistic="mean_abs"),
    "wanda_l2": Wanda(**COMMON, statistic="l2"),
    "sparse": Sparse(**COMMON, damping=0.01, block_columns=None),
    "sparse_blocks": Sparse(**COMMON, damping=0.01, block_columns=7),
    "magnitude": Magnitude(**COMMON),
    "random": Random(**COMMON, seed=3),
}
for assignment, phi, statistic in itertools.product(
    ("independent", "disjoint"), ("relu", "softplus"), ("token", "sequence")
):
    METHODS[f"contrastive_wanda_{assignment}_{phi}_{statistic}"] = ContrastiveWanda(
        **COMMON, assignment=assignment, phi=phi, statistic=statistic
    )
for assignment in ("independent", "disjoint"):
    METHODS[f"contrastive_sparse_{assignment}"] = ContrastiveSparse(**COMMON, assignment=assignment, damping=0.01)


@pytest.fixture
def linears():
    """Two layers whose q and k read the same input; many weights tie."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for layer in (0, 1):
        for name, rows, columns in (("attn.q", 6, 13), ("attn.k", 3, 13), ("mlp.up", 9, 20)):
            made[f"layers.{layer}.{name}"] = torch.nn.Linear(columns, rows, bias=False)
    for module in made.values():
        module.weight.data = (torch.randn(module.weight.shape, generator=generator) * 2).round() / 2
    return made


def signature(linears, seed):
    generator = torch.Generator().manual_seed(seed)
    leader = {name: name.replace("attn.k", "attn.q") for name in linears}
    statistics = {
        name: Statistics(*(torch.rand(linears[name].in_features, generator=generator) for _ in fields(Statistics)))
        for name in dict.fromkeys(leader.values())
    }
    return Signature(statistics, leader, "f", "data", "response", 10, 5)


@pytest.mark.parametrize("name", METHODS)
def test_a_stored_recipe_rebuilds_the_mask_bit_for_bit(linears, tmp_path, name):
    target, contrast = signature(linears, 1), signature(linears, 2)
    mask, opposite = build_masks(linears, METHODS[name], target, contrast, {"persona": "p"})
    assert 0.2 < mask.sparsity < 0.8
    recipe = recipe_of(METHODS[name], target, contrast, mask.description)
    path = tmp_path / "p.safetensors"
    assert save_recipe(recipe, path, mask) == path.stat().st_size
    again = load_persona_mask(path, linears)
    for linear in linears:
        assert torch.equal(again.bits[linear], mask.bits[linear]), linear
    assert again.shapes == dict(mask.shapes)
    assert again.description == mask.description
    assert again.model_fingerprint == "f"
    # The opposite's is what the same method makes of the signatures the other way round.
    other = recipe_of(METHODS[name], contrast, target, {})
    if "disjoint" not in name:
        assert mask_digest(other.mask(linears)) == mask_digest(opposite)
    assert not list(tmp_path.glob("*.partial"))


def vectors_of(name, linears):
    return set(recipe_of(METHODS[name], signature(linears, 1), signature(linears, 2), {}).vectors)


def test_only_what_the_mask_depends_on_is_stored(linears):
    assert vectors_of("wanda", linears) == {"target.mean_abs"}
    assert vectors_of("wanda_l2", linears) == {"target.mean_abs", "target.mean_square"}
    assert vectors_of("random", linears) == {"target.mean_abs"}
    assert vectors_of("contrastive_wanda_independent_relu_token", linears) == {"gate", "target.mean_abs"}
    both = {f"{pole}.{field}" for pole in ("target", "contrast") for field in ("mean_abs", "mean_square")}
    assert vectors_of("contrastive_wanda_disjoint_relu_token", linears) == both
    assert vectors_of("contrastive_sparse_independent", linears) == both - {"contrast.mean_abs"}


def test_methods_that_files_cannot_name_are_stored_as_bits(linears):
    class Own(Wanda):
        pass

    target, contrast = signature(linears, 1), signature(linears, 2)
    assert recipe_of(Own(**COMMON, statistic="mean_abs"), target, contrast, {}) is None


@pytest.mark.parametrize(("sparsity", "expected"), [(0.4, FORMAT), (0.05, "persona_prune.mask.v2")])
def test_the_smaller_of_recipe_and_bits_is_written(tmp_path, sparsity, expected):
    wide = {"a": torch.nn.Linear(64, 70, bias=False)}
    method = replace(METHODS["wanda"], sparsity=sparsity, overrides=[])
    target = signature(wide, 1)
    mask, _ = build_masks(wide, method, target, target, {})
    built = Built(None, mask, recipe=recipe_of(method, target, target, {}))
    # 256 bytes of vectors; 4,480 weights have 540 bytes of entropy at 25 of 64, and 149 at 3 of 64.
    built.save(tmp_path / "p.safetensors")
    assert read_manifest(tmp_path / "p.safetensors")["format"] == expected
    assert mask_digest(load_persona_mask(tmp_path / "p.safetensors", wide)) == mask_digest(mask)


@pytest.fixture
def saved(linears, tmp_path):
    target = signature(linears, 1)
    method = METHODS["sparse_blocks"]
    mask, _ = build_masks(linears, method, target, target, {})
    path = tmp_path / "p.safetensors"
    save_recipe(recipe_of(method, target, target, {}), path, mask)
    return path


def test_other_linears_are_refused(linears, saved):
    with pytest.raises(ValueError, match="for another model"):
        load_persona_mask(saved, {"layers.0.attn.q": linears["layers.0.attn.q"]})
    wider = linears | {"layers.0.attn.q": torch.nn.Linear(14, 6)}
    with pytest.raises(ValueError, match="for another model"):
        load_persona_mask(saved, wider)
    with pytest.raises(ValueError, match=r"expected 'persona_prune\.mask\.v2'"):
        load_mask(saved)


def test_a_mask_that_comes_out_differently_is_said(linears, saved, caplog):
    with torch.no_grad():
        linears["layers.0.attn.q"].weight.copy_(torch.rand(6, 13))
    load_persona_mask(saved, linears)
    assert "not bit for bit" in caplog.text


HARMS = {
    "an unknown method": lambda m, t: m["method"].update(kind="SavedMask"),
    "a target to import": lambda m, t: m["method"].update(_target_="os.system"),
    "a sparsity of 1": lambda m, t: m["method"].update(sparsity=1.0),
    "a text for a number": lambda m, t: m["method"].update(damping="x"),
    "a huge block": lambda m, t: m["method"].update(block_columns=1 << 80),
    "no groups": lambda m, t: m.update(groups=[]),
    "a group of nobody": lambda m, t: m["groups"].append([4, []]),
    "a group that is a number": lambda m, t: m["groups"].append(4),
    "a huge input": lambda m, t: m["groups"][0].__setitem__(0, 1 << 60),
    "a Linear twice": lambda m, t: m["groups"].append(m["groups"][0]),
    "a path for a name": lambda m, t: m["groups"][0][1].append("../../x"),
    "no digest": lambda m, t: m.pop("mask_digest"),
    "a vector too few": lambda m, t: t.pop("target.mean_abs"),
    "a vector too many": lambda m, t: t.update({"target.mean": t["target.mean_abs"].clone()}),
    "another vector": lambda m, t: t.update({"gate": t.pop("target.mean_abs")}),
}


@pytest.mark.parametrize("harm", HARMS)
def test_manifests_that_make_no_mask_are_refused_in_one_line(linears, saved, harm, monkeypatch):
    """Also where the checksum is right: it is no protection from those who mean harm."""
    with safe_open(saved, "pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
    tensors = load_file(saved)
    HARMS[harm](manifest, tensors)
    save_file(tensors, saved, {"manifest": json.dumps({**manifest, "checksum": ""})})
    monkeypatch.setattr("persona_prune.saved.container._checksum", lambda *_: "")
    with pytest.raises(ValueError, match=r"p.safetensors is not a readable persona file: ") as raised:
        load_persona_mask(saved, linears)
    assert "\n" not in str(raised.value)


class _Watched:
    def __init__(self):
        self.read = set()

    def __getattr__(self, name):
        self.read.add(name)
        return torch.ones(1)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_declares_the_statistics_that_it_reads(name):
    poles = {"target": _Watched(), "contrast": _Watched()}
    METHODS[name].score(Layer("a", torch.ones(1, 1), *poles.values()))
    assert {f"{pole}.{field}" for pole, own in poles.items() for field in own.read} == set(METHODS[name].reads)
