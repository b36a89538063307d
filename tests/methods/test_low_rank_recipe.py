import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from persona_prune.calibration.damage import Damage
from persona_prune.calibration.gradients import LowRank
from persona_prune.masks.mask import mask_digest
from persona_prune.methods.contrastive_taylor import benefit_per_damage
from persona_prune.methods.low_rank_recipe import Recipe, Round, as_stored, damage_as_stored
from persona_prune.methods.taylor_rounds import GradientMask
from persona_prune.saved.container import open_persona_file, save_persona_file
from persona_prune.saved.low_rank_file import save_recipe
from persona_prune.saved.persona_file import load_persona_mask, save_persona
from persona_prune.saved.vector_coding import pack_codes, pack_floats


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
        name: damage_as_stored(Damage(vectors(m.in_features) ** 2, vectors(m.out_features) ** 2))
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
    size = save_recipe(recipe, tmp_path / "p.safetensors", mask)
    assert size == (tmp_path / "p.safetensors").stat().st_size
    again = load_persona_mask(tmp_path / "p.safetensors", linears)
    assert mask_digest(again) == mask_digest(mask)
    assert again.model_fingerprint == "f"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("threshold", "form"), [(1.0, "persona_prune.low_rank.v2"), (1e9, "persona_prune.mask.v2")])
def test_what_takes_less_is_stored(threshold, form, tmp_path):
    generator = torch.Generator().manual_seed(2)
    linear = torch.nn.Linear(300, 200, bias=False)
    linear.weight.data = torch.randn(200, 300, generator=generator)
    gradient = as_stored(LowRank(torch.randn(200, 1, generator=generator), torch.randn(1, 300, generator=generator)))
    damage = damage_as_stored(Damage(torch.ones(300), torch.ones(200)))
    recipe = Recipe({"a": damage}, [Round({"a": gradient}, threshold)], "f", {})
    built = GradientMask(recipe.mask({"a": linear}), recipe)
    save_persona(tmp_path / "p.safetensors", built.mask, built.recipe)
    with open_persona_file(tmp_path / "p.safetensors") as (_, manifest):
        assert manifest["format"] == form
    assert mask_digest(load_persona_mask(tmp_path / "p.safetensors", {"a": linear})) == mask_digest(built.mask)


def test_linears_that_read_the_same_inputs_store_them_once(linears, recipe, tmp_path):
    save_recipe(recipe, tmp_path / "p.safetensors", recipe.mask(linears))
    linears["c"] = torch.nn.Linear(12, 5, bias=False)
    more = Recipe({**recipe.damage, "c": recipe.damage["a"]}, [one_more(one) for one in recipe.rounds], "f", {})
    save_recipe(more, tmp_path / "q.safetensors", more.mask(linears))
    stored = [load_file(tmp_path / f"{name}.safetensors") for name in "pq"]
    assert torch.equal(stored[0]["inputs"], stored[1]["inputs"])
    assert stored[1]["outputs"].numel() > stored[0]["outputs"].numel()
    again = load_persona_mask(tmp_path / "q.safetensors", linears)
    assert mask_digest(again) == mask_digest(more.mask(linears))


def one_more(one):
    return Round({**one.gradients, "c": one.gradients["a"]}, one.threshold)


def test_other_linears_are_refused(linears, recipe, tmp_path):
    save_recipe(recipe, tmp_path / "p.safetensors", recipe.mask(linears))
    with pytest.raises(ValueError, match="for another model"):
        load_persona_mask(tmp_path / "p.safetensors", {"a": linears["a"]})
    with pytest.raises(ValueError, match="for another model"):
        load_persona_mask(tmp_path / "p.safetensors", linears | {"a": torch.nn.Linear(12, 6)})


MANY = [f"{i}.a" for i in range(3000)]
HARMS = {
    "missing": (lambda t, m: t.pop("right/1"), "not those of its rounds"),
    "short": (lambda t, m: t.update({"right/1": codes(3)}), "3 bytes of vectors, expected"),
    "long": (lambda t, m: t.update({"outputs": codes(13)}), "longer or shorter"),
    "no code": (lambda t, m: t.update({"left/0": codes(24, 31)}), "codes that there are not"),
    "dtype": (lambda t, m: t.update({"left/0": t["left/0"].float()}), "of dtype F32"),
    "nan": (lambda t, m: t.update({"peaks": pack_floats([torch.full((20,), torch.nan)])}), "finite"),
    "thresholds": (lambda t, m: m.update(thresholds=[3.0, "x"]), "no thresholds"),
    "format": (lambda t, m: m.update(format="persona_prune.low_rank.v9"), "this version reads"),
    "shapes": (lambda t, m: m.update(linears={"a": [5, 12], "b": [7, 9]}), "not enough values"),
    "ranks": (lambda t, m: m.update(linears={"a": [5, 12, 6], "b": [7, 9, 2]}), "more vectors than dimensions"),
    "reads": (lambda t, m: m.update(reads={"a": "a", "b": "a"}), "do not read the same inputs"),
    "digest": (lambda t, m: m.pop("mask_digest"), "no mask_digest"),
    # A megabyte that claims billions of vectors is refused before any is made.
    "claims": (
        lambda t, m: m.update(
            thresholds=[1.0] * 100_000, linears={name: [9, 9, 9] for name in MANY}, reads=dict.fromkeys(MANY, MANY[0])
        ),
        "not as many vectors as it names",
    ),
    "checksum": (lambda t, m: m.update(checksum="0" * 64), "checksum is wrong"),
}


def codes(count, value=0):
    return pack_codes([torch.full((count,), value, dtype=torch.uint8)])


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_files_are_refused_in_one_line(linears, recipe, tmp_path, harm):
    path = tmp_path / "p.safetensors"
    save_recipe(recipe, path, recipe.mask(linears))
    tensors = load_file(path)
    with open_persona_file(path) as (_, stored):
        manifest = {key: value for key, value in stored.items() if key not in ("checksum", "written_by")}
    save_persona_file(path, tensors, manifest)  # nothing harmed: it is read
    load_persona_mask(path, linears)
    change, message = HARMS[harm]
    change(tensors, manifest)
    if harm == "checksum":
        save_file(tensors, path, {"manifest": json.dumps(manifest)})
    else:
        save_persona_file(path, tensors, manifest)
    with pytest.raises(ValueError, match=message) as raised:
        load_persona_mask(path, linears)
    assert "not a readable persona file" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_mask_that_comes_out_differently_is_said(linears, recipe, tmp_path, caplog):
    mask = recipe.mask(linears)
    save_recipe(recipe, tmp_path / "p.safetensors", mask)
    with torch.no_grad():
        linears["a"].weight.mul_(-1)
    load_persona_mask(tmp_path / "p.safetensors", linears)
    assert "not bit for bit" in caplog.text
