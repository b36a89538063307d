"""Masks from pairs: what must not change them, and what controls are made of."""

from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir

from persona_prune.command_line import check_command_line
from persona_prune.config import build, config_directory
from persona_prune.gradient_building import largest_affordable
from persona_prune.mask_building import Builder, oriented
from persona_prune.masks import difference
from persona_prune.personas import Pair
from persona_prune.run_directory import RunDirectory
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
def test_order_of_pairs_and_batch_size_do_not_change_the_mask(exact, pairs, tmp_path, method):
    settings = [f"method={method}", *(TAYLOR if method == "contrastive_taylor" else [])]
    first = mask_of(exact, tmp_path, pairs, *settings)
    assert 0 < first.sparsity < 0.9
    turned = mask_of(exact, tmp_path, pairs[::-1], *settings)
    assert max(difference(first, turned).values()) == 0
    batches = mask_of(exact, tmp_path, pairs, *settings, "calibration.batch_size=2")
    assert max(difference(first, batches).values()) == 0


def test_a_budget_of_nothing_drops_nothing_and_a_loose_one_everything(tiny, pairs, tmp_path):
    settings = ["method=contrastive_taylor", *TAYLOR, "method.rounds=1"]
    bounds = ["method.max_perplexity_ratio", "method.max_neutral_drift", "method.max_own_loss"]
    loose = mask_of(tiny, tmp_path, pairs, *settings, *(f"{bound}=9" for bound in bounds))
    free = mask_of(tiny, tmp_path, pairs, *settings, *(f"{bound}=null" for bound in bounds))
    assert loose.sparsity == free.sparsity > 0
    tight = mask_of(tiny, tmp_path, pairs, *settings, "method.neutral_weight=0", "method.max_neutral_drift=0")
    assert tight.sparsity < free.sparsity


def test_generic_labels_say_nothing_about_which_pole_was_asked_for(pairs):
    flipped = [pair.flipped() for pair in pairs]
    assert oriented(pairs, "generic") == oriented(flipped, "generic")
    assert oriented(pairs, "own") == tuple(pairs)
    assert oriented(pairs, "opposite") == tuple(flipped)
    many = [Pair(f"p{i}", f"a{i}", f"b{i}") for i in range(400)]
    kept = sum(pair.matching.startswith("a") for pair in oriented(many, "generic"))
    assert 150 < kept < 250


def test_gamma_scales_what_is_dropped_and_nothing_else(tiny, pairs, tmp_path):
    from persona_prune.apply import Masking
    from persona_prune.models import maskable_linears

    mask = mask_of(tiny, tmp_path, pairs, "method=wanda")
    before = {name: module.weight.clone() for name, module in maskable_linears(tiny.model).items()}
    with Masking(mask, 0.25).applied(replace(tiny)):
        for name, module in maskable_linears(tiny.model).items():
            keep = mask.keep(name)
            expected = torch.where(keep, before[name], 0.25 * before[name])
            assert torch.equal(module.weight, expected)


@pytest.mark.parametrize("bound", [0.0, 0.007, 0.008, 0.1, 0.126, 0.25, 0.3, 0.62, 0.99])
def test_the_search_for_a_share_comes_within_a_fifth_of_the_largest(bound):
    asked = []

    def affordable(share):
        asked.append(share)
        return share <= bound

    found = largest_affordable(affordable)
    assert found <= bound
    assert found >= 0.8 * bound or bound < 1 / 128
    assert found in {0.0, *asked}
    assert len(asked) <= 9
    allowed = [share for share in asked if share <= bound]
    assert allowed == sorted(allowed)  # the last one that was allowed is the result
    assert found == (allowed[-1] if allowed else 0.0)
