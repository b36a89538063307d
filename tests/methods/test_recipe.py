import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from persona_prune.gradients import Damage, LowRank
from persona_prune.methods.contrastive_taylor import benefit_per_damage
from persona_prune.methods.recipe import Recipe, Round, as_stored, mask_digest
from persona_prune.methods.saved import load_persona_mask


@pytest.fixture
def linears():
    generator = torch.Generator().manual_seed(0)
    made = {"a": torch.nn.Linear(12, 5, bias=False), "b": torch.nn.Linear(9, 7, bias=False)}
    for linear in made.values():
        linear.weight.data = torch.randn(linear.weight.shape, generator=generator)
    return made


@pytest.fixture
def recipe(linears):
    generator = torch.Generator().manual_seed(1)

    def vectors(*shape):
        return torch.randn(*shape, generator=generator)

    damage = {
        name: Damage(
            (vectors(m.in_features) ** 2).bfloat16().float(), (vectors(m.out_features) ** 2).bfloat16().float()
        )
        for name, m in linears.items()
    }
    rounds = [
        Round(
            {n: as_stored(LowRank(vectors(m.out_features, 2), vectors(2, m.in_features))) for n, m in linears.items()},
            t,
        )
        for t in (3.0, 1.0)
    ]
    return Recipe(damage, rounds, "f", {"method": "m"})


def test_a_later_round_sees_what_earlier_ones_left(linears, recipe):
    mask = recipe.mask(linears)
    for name, module in linears.items():
        dropped = torch.zeros(module.weight.shape, dtype=torch.bool)
        for one in recipe.rounds:
            gradient = one.gradients[name].left @ one.gradients[name].right
            score = benefit_per_damage(module.weight.detach(), gradient, recipe.damage[name])
            dropped |= score > one.threshold
        assert torch.equal(mask.keep(name), ~dropped)
    assert 0 < mask.sparsity < 1


def test_a_stored_recipe_rebuilds_the_mask_bit_for_bit(linears, recipe, tmp_path):
    mask = recipe.mask(linears)
    size = recipe.save(tmp_path / "p.safetensors", mask)
    assert size == (tmp_path / "p.safetensors").stat().st_size
    again = load_persona_mask(tmp_path / "p.safetensors", linears)
    assert mask_digest(again) == mask_digest(mask)
    assert again.model_fingerprint == "f"
    assert not list(tmp_path.glob("*.partial"))


def test_files_without_a_checksum_are_read(linears, recipe, tmp_path):
    """Earlier versions wrote none; caches are full of them."""
    path = tmp_path / "p.safetensors"
    mask = recipe.mask(linears)
    recipe.save(path, mask)
    with safe_open(path, "pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
    del manifest["checksum"]
    save_file(load_file(path), path, {"manifest": json.dumps(manifest)})
    assert mask_digest(load_persona_mask(path, linears)) == mask_digest(mask)


def test_other_linears_are_refused(linears, recipe, tmp_path):
    recipe.save(tmp_path / "p.safetensors", recipe.mask(linears))
    with pytest.raises(ValueError, match="for another model"):
        load_persona_mask(tmp_path / "p.safetensors", {"a": linears["a"]})
    with pytest.raises(ValueError, match="for another model"):
        load_persona_mask(tmp_path / "p.safetensors", linears | {"a": torch.nn.Linear(12, 6)})


@pytest.mark.parametrize("harm", ["missing", "shape", "dtype", "nan", "thresholds", "format"])
def test_damaged_files_are_refused_in_one_line(linears, recipe, tmp_path, harm):
    path = tmp_path / "p.safetensors"
    recipe.save(path, recipe.mask(linears))
    tensors = load_file(path)
    manifest = {
        "format": "persona_prune.low_rank.v1",
        "model_fingerprint": "f",
        "thresholds": [3.0, 1.0],
        "description": {},
    }
    if harm == "missing":
        del tensors["right/1/a"]
    elif harm == "shape":
        tensors["right/1/a"] = tensors["right/1/a"][:, :4].contiguous()
    elif harm == "dtype":
        tensors["left/0/b"] = tensors["left/0/b"].float()
    elif harm == "nan":
        tensors["inputs/a"][0] = float("nan")
    elif harm == "thresholds":
        manifest["thresholds"] = [3.0, "x"]
    else:
        manifest["format"] = "persona_prune.low_rank.v9"
    save_file(tensors, path, metadata={"manifest": json.dumps(manifest)})
    with pytest.raises(ValueError, match="not a readable persona file") as raised:
        load_persona_mask(path, linears)
    assert "\n" not in str(raised.value)


def test_a_mask_that_comes_out_differently_is_said(linears, recipe, tmp_path, caplog):
    mask = recipe.mask(linears)
    recipe.save(tmp_path / "p.safetensors", mask)
    with torch.no_grad():
        linears["a"].weight.mul_(-1)
    load_persona_mask(tmp_path / "p.safetensors", linears)
    assert "not bit for bit" in caplog.text
