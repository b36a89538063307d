"""Every method against the paper's equations, written out entry by entry."""

import math

import pytest
import torch

from persona_prune.calibration.signatures import Signature, Statistics
from persona_prune.methods.base import Layer, build_masks
from persona_prune.methods.contrastive_sparse import ContrastiveSparse
from persona_prune.methods.contrastive_wanda import ContrastiveWanda
from persona_prune.methods.magnitude import Magnitude, magnitude_like
from persona_prune.methods.random import Random
from persona_prune.methods.sparse import Sparse
from persona_prune.methods.wanda import Wanda
from persona_prune.models.loaded import maskable_linears

COMMON = {"sparsity": 0.5, "gamma": 0.0, "overrides": []}


def statistics(seed: int, n: int = 7) -> Statistics:
    x = torch.randn(50, n, generator=torch.Generator().manual_seed(seed))
    norms = torch.rand(9, n, generator=torch.Generator().manual_seed(seed + 100))
    return Statistics(x.mean(0), x.abs().mean(0), (x**2).mean(0), norms.mean(0), norms.var(0, unbiased=False))


@pytest.fixture
def layer() -> Layer:
    weight = torch.randn(3, 7, generator=torch.Generator().manual_seed(5))
    return Layer("l", weight, statistics(1), statistics(2))


@pytest.mark.parametrize("statistic", ["mean_abs", "l2"])
def test_wanda_is_equation_3(layer, statistic):
    score = Wanda(name="wanda", statistic=statistic, **COMMON).score(layer)
    for i in range(3):
        for j in range(7):
            column = layer.target.mean_abs[j] if statistic == "mean_abs" else layer.target.mean_square[j] ** 0.5
            expected = abs(layer.weight[i, j].item()) * column.item()
            assert score[i, j].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("phi", ["relu", "softplus"])
@pytest.mark.parametrize("statistic", ["token", "sequence"])
def test_contrastive_wanda_is_equation_8(layer, phi, statistic):
    method = ContrastiveWanda(name="c", assignment="independent", **COMMON, phi=phi, statistic=statistic)
    score = method.score(layer)
    plus, minus = layer.target, layer.contrast
    for j in range(7):
        if statistic == "token":
            means = [s.mean_abs[j].item() for s in (plus, minus)]
            variances = [s.mean_square[j].item() - s.mean_abs[j].item() ** 2 for s in (plus, minus)]
        else:
            means = [s.sequence_mean[j].item() for s in (plus, minus)]
            variances = [s.sequence_variance[j].item() for s in (plus, minus)]
        effect = (means[0] - means[1]) / math.sqrt(sum(variances) + 1e-8)
        gate = max(effect, 0.0) if phi == "relu" else math.log1p(math.exp(effect))
        for i in range(3):
            assert score[i, j].item() == pytest.approx(abs(layer.weight[i, j].item()) * gate, rel=1e-4, abs=1e-7)


def second_order(weight: float, statistics: Statistics, j: int) -> float:
    diagonal = statistics.mean_square.tolist()
    return weight**2 * (diagonal[j] + 0.01 * sum(diagonal) / len(diagonal))


def test_sparse_is_equation_5(layer):
    score = Sparse(name="s", damping=0.01, block_columns=None, **COMMON).score(layer)
    for i in range(3):
        for j in range(7):
            expected = second_order(layer.weight[i, j].item(), layer.target, j)
            assert score[i, j].item() == pytest.approx(expected, rel=1e-5)


def test_contrastive_sparse_is_equation_9(layer):
    score = ContrastiveSparse(name="s", damping=0.01, assignment="independent", **COMMON).score(layer)
    for i in range(3):
        row = layer.weight[i].tolist()
        plus = [second_order(w, layer.target, j) for j, w in enumerate(row)]
        minus = [second_order(w, layer.contrast, j) for j, w in enumerate(row)]
        for j in range(7):
            assert score[i, j].item() == pytest.approx(plus[j] / sum(plus) - minus[j] / sum(minus), abs=1e-6)


def test_magnitude_is_the_absolute_weight(layer):
    assert torch.equal(Magnitude(name="m", **COMMON).score(layer), layer.weight.abs())


def test_a_row_of_zeros_is_scored_without_nan(layer):
    empty = Layer("l", torch.zeros(3, 7), layer.target, layer.contrast)
    score = ContrastiveSparse(name="s", damping=0.01, assignment="independent", **COMMON).score(empty)
    assert not score.isnan().any()


def test_random_depends_on_seed_and_linear_only(layer):
    def scores(seed, name="l"):
        return Random(name="random", seed=seed, **COMMON).score(Layer(name, layer.weight, layer.target, layer.contrast))

    assert torch.equal(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))
    assert not torch.equal(scores(1), scores(1, "other"))


def test_every_row_loses_the_same_share(tiny):
    linears = maskable_linears(tiny.model)
    entries = {name: statistics(3, module.in_features) for name, module in linears.items()}
    signature = Signature(entries, {n: n for n in linears}, tiny.fingerprint, "d", "response", 1, 1)
    method = Wanda(name="wanda", statistic="l2", **(COMMON | {"sparsity": 0.3}))
    mask, _ = build_masks(linears, method, signature, signature, {"persona": "p"})
    for name, module in linears.items():
        kept = mask.keep(name).sum(1)
        assert (kept == math.floor(0.7 * module.in_features + 1e-9)).all()
    assert mask.description == {"method": "wanda", "sparsity": 0.3, "gamma": 0.0, "persona": "p", "pole": "target"}


def test_a_control_knows_nothing_of_the_persona_even_where_weights_are_equal():
    linear = torch.nn.Linear(7, 3, bias=False)
    linear.weight.data = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]] * 3)
    linears = {"l": linear}
    signatures = [Signature({"l": statistics(seed)}, {"l": "l"}, "f", "d", "response", 1, 1) for seed in (1, 2)]
    method = Magnitude(name="magnitude", **COMMON)
    own, other = (mask.keep("l") for mask in build_masks(linears, method, *signatures, {}))
    assert own.tolist() == other.tolist() == [[False, True, False, True, False, True, False]] * 3
    sparser = Magnitude(name="magnitude", **(COMMON | {"sparsity": 0.29}))
    mask, _ = build_masks(linears, sparser, *signatures, {})
    assert mask.keep("l").tolist() == [[True, True, False, True, False, True, False]] * 3
    assert torch.equal(mask.keep("l"), magnitude_like(mask, linears).keep("l"))
