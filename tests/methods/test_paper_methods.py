"""Every method against the paper's equations, written out entry by entry."""

import math

import pytest
import torch

from persona_prune.methods.base import Layer, build_mask
from persona_prune.methods.contrastive_wanda import ContrastiveWanda
from persona_prune.methods.random import Random
from persona_prune.methods.wanda import Wanda
from persona_prune.models import maskable_linears
from persona_prune.signatures import Signature, Statistics


def statistics(seed: int, n: int = 7) -> Statistics:
    x = torch.randn(50, n, generator=torch.Generator().manual_seed(seed))
    norms = torch.rand(9, n, generator=torch.Generator().manual_seed(seed + 100))
    return Statistics(x.mean(0), x.abs().mean(0), (x**2).mean(0), norms.mean(0), norms.var(0, unbiased=False))


@pytest.fixture
def layer() -> Layer:
    weight = torch.randn(3, 7, generator=torch.Generator().manual_seed(5))
    return Layer("l", weight, statistics(1), statistics(2))


def test_wanda_is_equation_3(layer):
    score = Wanda(name="wanda", sparsity=0.5, gamma=0.0).score(layer)
    for i in range(3):
        for j in range(7):
            expected = abs(layer.weight[i, j].item()) * layer.target.mean_abs[j].item()
            assert score[i, j].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("phi", ["relu", "softplus"])
@pytest.mark.parametrize("statistic", ["token", "sequence"])
def test_contrastive_wanda_is_equation_8(layer, phi, statistic):
    method = ContrastiveWanda(name="c", sparsity=0.5, gamma=0.0, phi=phi, statistic=statistic)
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


def test_random_depends_on_seed_and_linear_only(layer):
    def scores(seed, name="l"):
        return Random(name="random", sparsity=0.5, gamma=0.0, seed=seed).score(
            Layer(name, layer.weight, layer.target, layer.contrast)
        )

    assert torch.equal(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))
    assert not torch.equal(scores(1), scores(1, "other"))


def test_every_row_loses_the_same_share(tiny):
    linears = maskable_linears(tiny.model)
    entries = {name: statistics(3, module.in_features) for name, module in linears.items()}
    signature = Signature(entries, {n: n for n in linears}, tiny.fingerprint, "d", "response", 1, 1)
    method = Wanda(name="wanda", sparsity=0.3, gamma=0.0)
    mask = build_mask(linears, method, signature, signature, {"persona": "p"})
    for name, module in linears.items():
        kept = mask.keep(name).sum(1)
        assert (kept == math.floor(0.7 * module.in_features + 1e-9)).all()
    assert mask.description == {"method": "wanda", "sparsity": 0.3, "gamma": 0.0, "persona": "p"}
