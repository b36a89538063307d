from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from persona_prune.masks.top_k import block_top_k, disjoint_top_k, kept_per_row
from persona_prune.methods.magnitude import Magnitude
from persona_prune.methods.wanda import Wanda
from tests.reference import oracles


@given(
    seed=st.integers(0, 10_000),
    columns=st.integers(1, 24),
    levels=st.sampled_from([1, 3, 1000]),
    sparsity=st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.9]),
)
@settings(max_examples=200, deadline=None)
def test_disjoint_masks_equal_the_oracle_and_overlap_as_little_as_possible(seed, columns, levels, sparsity):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randint(levels, (3, columns), generator=generator).float() for _ in range(2)]
    ties = [torch.randint(2, (3, columns), generator=generator).float() for _ in range(2)]
    first, second = disjoint_top_k(*scores, *(t.__getitem__ for t in ties), sparsity)
    kept = kept_per_row(columns, sparsity)
    for i in range(3):
        expected = oracles.disjoint(*(t[i].tolist() for t in (*scores, *ties)), kept)
        found = tuple(set(keep[i].nonzero()[:, 0].tolist()) for keep in (first, second))
        assert found == expected
        assert [len(side) for side in found] == [kept, kept]
        assert len(found[0] & found[1]) == max(0, 2 * kept - columns)


def test_swapping_the_poles_swaps_the_masks():
    generator = torch.Generator().manual_seed(0)
    a, b, ta, tb = (torch.rand(4, 30, generator=generator) for _ in range(4))
    one, other = disjoint_top_k(a, b, ta.__getitem__, tb.__getitem__, 0.3)
    swapped = disjoint_top_k(b, a, tb.__getitem__, ta.__getitem__, 0.3)
    assert torch.equal(one, swapped[1])
    assert torch.equal(other, swapped[0])


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_poles_are_not_told_apart_by_scores_that_are_not_finite(value):
    good, bad = torch.ones(1, 3), torch.tensor([[1.0, value, 2.0]])
    for scores in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="not finite"):
            disjoint_top_k(*scores, good.__getitem__, good.__getitem__, 0.3)


def test_blocks_keep_their_share():
    score = torch.arange(10.0)[None]
    assert block_top_k(score, score.__getitem__, 0.5, 4)[0].nonzero()[:, 0].tolist() == [2, 3, 6, 7, 9]
    assert block_top_k(score, score.__getitem__, 0.5, 10)[0].nonzero()[:, 0].tolist() == [5, 6, 7, 8, 9]


def magnitude(overrides):
    return Magnitude(name="magnitude", sparsity=0.2, gamma=0.0, overrides=overrides)


def test_overrides_by_module_the_last_match_wins():
    method = magnitude(["attention:0.6", "mlp:0.3", "layers.0-1:0.1", "mlp.1:0.5"])
    assert method.sparsity_of("model.layers.5.self_attn.q_proj") == 0.6
    assert method.sparsity_of("model.layers.5.mlp.up_proj") == 0.3
    assert method.sparsity_of("model.layers.0.self_attn.q_proj") == 0.1
    assert method.sparsity_of("model.layers.1.mlp.up_proj") == 0.5
    assert magnitude(["layers.10:0.9"]).sparsity_of("model.layers.1.mlp.up_proj") == 0.2


@pytest.mark.parametrize("overrides", [["layers:0.1"], ["mlpp:0.1"], ["mlp:1.0"], ["mlp.x:0.1"], ["mlp"]])
def test_impossible_overrides_are_refused(overrides):
    with pytest.raises(ValidationError):
        magnitude(overrides)


def test_an_override_that_matches_nothing_is_refused():
    names = ["model.layers.0.mlp.up_proj", "model.layers.29.self_attn.q_proj"]
    method = Wanda(name="wanda", sparsity=0.5, gamma=0.0, overrides=["mlp:0.3", "layers.40-50:0.5"], statistic="l2")
    with pytest.raises(
        ValueError, match=r"layers\.40-50:0\.5 matches no Linear of this model, such as model\.layers\.29"
    ):
        method.check_overrides(names)
    replace(method, overrides=["mlp:0.3", "layers.20-50:0.5"]).check_overrides(names)
