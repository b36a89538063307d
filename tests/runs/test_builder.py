"""Masks from pairs: what must not change them, and what controls are made of."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir

from persona_prune.common.conf_files import config_directory
from persona_prune.masks.mask import difference
from persona_prune.personas.pairs import Pair, oriented
from persona_prune.runs.builder import Builder
from persona_prune.runs.command_line import check_command_line
from persona_prune.runs.directory import RunDirectory
from persona_prune.runs.plan import build
from tests.conftest import tiny_model

TAYLOR = ["method.neutral_prompts=4", "method.neutral_per_round=2", "method.generic_tokens=300", "method.rank=2"]


@pytest.fixture(scope="module")
def exact(cache):
    """In float64 sums hardly depend on their order, so masks must not either."""
    tiny = tiny_model()
    tiny.model.double()
    return tiny


def mask_of(loaded, directory, pairs, *overrides):
    rows = [
        f'{{"prompt": "{p.prompt}", "matching": "{p.matching}", "not_matching": "{p.not_matching}"}}' for p in pairs
    ]
    path = directory / f"{len(list(directory.iterdir()))}.jsonl"
    path.write_text("\n".join(rows))
    arguments = [
        "model=tiny_random",
        "calibration=pairs",
        f"calibration.path={path}",
        "evaluator=capability",
        *overrides,
    ]
    check_command_line(arguments)
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        plan = build(compose("config", overrides=arguments))
    return Builder(plan, loaded, RunDirectory(directory)).build().mask


@pytest.mark.parametrize("method", ["wanda", "sparse", "contrastive_wanda", "contrastive_sparse", "contrastive_taylor"])
def test_order_of_pairs_and_batch_size_do_not_change_the_mask(exact, pairs, tmp_path, method, monkeypatch):
    settings = [f"method={method}", *(TAYLOR if method == "contrastive_taylor" else [])]
    rows = tmp_path / "rows"
    rows.mkdir()

    def fresh(cache, *arguments):
        # What one of them had made, the next would only read.
        monkeypatch.setenv("PERSONA_PRUNE_CACHE", str(tmp_path / cache))
        return mask_of(exact, rows, *arguments, *settings)

    first = fresh("first", pairs)
    assert 0 < first.sparsity < 0.9
    turned = fresh("turned", pairs[::-1])
    assert max(difference(first, turned).values()) == 0
    batches = fresh("batches", pairs, "calibration.batch_size=2")
    assert max(difference(first, batches).values()) == 0


def test_statistics_of_another_batch_size_are_others(tiny, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONA_PRUNE_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows"
    rows.mkdir()
    for batch_size, files in ((4, 1), (4, 1), (2, 2)):
        mask_of(tiny, rows, pairs, "method=wanda", f"calibration.batch_size={batch_size}")
        assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == files


def test_a_flipped_persona_is_stored_as_what_it_becomes(exact, pairs, tmp_path):
    arguments = ["method=wanda", "persona.flip=true"]
    about = mask_of(exact, tmp_path, pairs, *arguments).description
    assert (about["persona"], about["opposite"], about["flipped"]) == ("introvert", "extrovert", True)
    assert about["persona_description"].startswith("The opposite of extrovert: ")
    about = mask_of(exact, tmp_path, pairs, *arguments, "persona=custom", "persona.name=pirate").description
    assert (about["persona"], about["opposite"]) == ("not_pirate", "pirate")


BOUNDS = ("max_perplexity_ratio", "max_neutral_drift", "max_first_word_shift", "max_own_loss")
FREE = ["method=contrastive_taylor", *TAYLOR, "method.rounds=1", *(f"method.{bound}=null" for bound in BOUNDS)]


def told(monkeypatch, *objectives):
    """Let the budget say what steps reach, one after the other; None: not allowed."""
    answers = iter(objectives)
    fake = SimpleNamespace(reached=0.0, gained=lambda: next(answers))
    monkeypatch.setattr("persona_prune.methods.taylor_rounds.Budget", lambda *_: fake)
    return fake


def test_a_round_takes_the_best_of_the_steps_it_tried(tiny, pairs, tmp_path, monkeypatch):
    free = mask_of(tiny, tmp_path, pairs, *FREE)
    assert free.sparsity > 0
    bounded = [*FREE, "method.max_neutral_drift=1"]
    # Of all drops, a half, three quarters, seven eighths.
    budget = told(monkeypatch, None, 3.0, 2.0, 1.0)
    half = mask_of(tiny, tmp_path, pairs, *bounded)
    assert half.sparsity == pytest.approx(free.sparsity / 2, rel=1e-3)
    assert budget.reached == 3.0
    told(monkeypatch, 1.0)
    # Other settings, for another place in the cache.
    assert mask_of(tiny, tmp_path, pairs, *FREE, "method.max_neutral_drift=2").sparsity == free.sparsity
    told(monkeypatch, *[None] * 8)
    assert mask_of(tiny, tmp_path, pairs, *FREE, "method.max_neutral_drift=3").sparsity == 0.0


def test_pairs_of_the_budget_are_held_out_where_there_are_many(monkeypatch):
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        bounded = build(compose("config")).method
        free = build(compose("config", overrides=FREE[5:])).method
    assert [bounded.held_out(pairs) for pairs in (1, 64, 127, 128, 311)] == [0, 0, 0, 32, 32]
    assert free.held_out(311) == 0
    # 130 pairs, 32 of them held out, are two rounds of 64.
    assert [bounded.resolved(pairs).rounds for pairs in (3, 64, 130, 311, 3000)] == [1, 1, 2, 5, 6]


def test_generic_labels_say_nothing_about_which_pole_was_asked_for(pairs):
    flipped = [pair.flipped() for pair in pairs]
    assert oriented(pairs, "generic") == oriented(flipped, "generic")
    assert oriented(pairs, "own") == tuple(pairs)
    assert oriented(pairs, "opposite") == tuple(flipped)
    for number in (1, 2, 5, 64, 401):
        many = [Pair(f"p{i}", f"a{i}", f"b{i}") for i in range(number)]
        generic = oriented(many, "generic")
        assert [pair.prompt for pair in generic] == [pair.prompt for pair in many]
        first = [pair.matching.startswith("a") for pair in generic]
        assert abs(2 * sum(first) - number) <= 1
        assert set(oriented(many[::-1], "generic")) == set(generic)
        # Nor do they alternate in the order of the file, which may mean something.
        assert number < 64 or max(len(list(run)) for _, run in itertools.groupby(first)) > 2


def test_gamma_scales_what_is_dropped_and_nothing_else(tiny, pairs, tmp_path):
    from persona_prune.masks.applying import Masking
    from persona_prune.models.loaded import maskable_linears

    mask = mask_of(tiny, tmp_path, pairs, "method=wanda")
    before = {name: module.weight.clone() for name, module in maskable_linears(tiny.model).items()}
    with Masking(mask, 0.25).applied(replace(tiny)):
        for name, module in maskable_linears(tiny.model).items():
            keep = mask.keep(name)
            expected = torch.where(keep, before[name], 0.25 * before[name])
            assert torch.equal(module.weight, expected)


def test_both_poles_are_read_at_once(exact, pairs, tmp_path, caplog):
    caplog.set_level("INFO")
    asked = [Pair(f"{pair.prompt} Really?", pair.matching, pair.not_matching) for pair in pairs]
    settings = ["method=contrastive_wanda", "method.assignment=disjoint", "method.sparsity=0.5"]
    own = mask_of(exact, tmp_path, asked, *settings)
    assert "from the cache" not in caplog.text
    other = mask_of(exact, tmp_path, asked, *settings, "persona.flip=true")
    assert f"signature of {len(asked)} prompts: from the cache" in caplog.text
    # Every weight belongs to one of the two.
    assert min(difference(own, other).values()) == 1.0
