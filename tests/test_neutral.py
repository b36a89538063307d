import math

import pytest
import torch

from persona_prune.likelihood import Row, pair_rows, score
from persona_prune.models import cache_root, maskable_linears
from persona_prune.neutral import Guard, Neutral
from tests.reference import oracles


def mean_log_prob(model, rows):
    return sum(oracles.answer_log_probs(model, r.prompt, r.branches[0]).mean().item() for r in rows) / len(rows)


def test_cost_against_single_sequences(tiny, pairs):
    """Perplexity over all tokens of the text; drift and own loss as means over answers of per-token means."""
    rows = pair_rows(tiny.tokenizer, pairs, 512)
    text = tuple(Row(r.branches[1][:1], (r.branches[1][1:],)) for r in rows[1:4] if len(r.branches[1]) > 1)
    neutral = Neutral((), (), text, tuple(Row(r.prompt, r.branches[1:]) for r in rows[:3]))
    own = [Row(r.prompt, r.branches[:1]) for r in rows[:2]]
    guard = Guard(tiny, neutral, 2, own)
    assert guard.perplexity_ratio() == pytest.approx(1.0)

    def totals():
        scored = [oracles.answer_log_probs(tiny.model, r.prompt, r.branches[0]) for r in text]
        return sum(x.sum().item() for x in scored) / sum(len(x) for x in scored)

    before = totals(), mean_log_prob(tiny.model, neutral.validation_answers), mean_log_prob(tiny.model, own)
    weight = next(iter(maskable_linears(tiny.model).values())).weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    try:
        after = totals(), mean_log_prob(tiny.model, neutral.validation_answers), mean_log_prob(tiny.model, own)
        ratio, drift, own_loss = guard.perplexity_ratio(), guard.neutral_drift(), guard.own_loss()
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert ratio == pytest.approx(math.exp(before[0] - after[0]), rel=1e-3)
    assert drift == pytest.approx(before[1] - after[1], abs=1e-3)
    assert own_loss == pytest.approx(before[2] - after[2], abs=1e-3)
    assert own_loss != pytest.approx(drift, abs=1e-3)
    assert Guard(tiny, neutral, 2).own_loss() == 0.0


def test_what_the_dense_model_makes_of_neutral_material_is_measured_once(tiny, pairs, monkeypatch):
    rows = pair_rows(tiny.tokenizer, pairs, 300)
    text = tuple(Row(r.branches[1][:1], (r.branches[1][1:],)) for r in rows[1:3])
    neutral = Neutral((), (), text, tuple(Row(r.prompt, r.branches[1:]) for r in rows[:2]))
    calls = []
    monkeypatch.setattr("persona_prune.neutral.score", lambda *a, **k: (calls.append(1), score(*a, **k))[1])
    Guard(tiny, neutral, 3)
    assert len(calls) == 2
    again = Guard(tiny, neutral, 3)
    assert len(calls) == 2
    assert (again.perplexity_ratio(), again.neutral_drift()) == pytest.approx((1.0, 0.0), abs=1e-6)
    for damaged in (cache_root() / "neutral").glob("guard-*.json"):
        damaged.write_text("[1.0]")
    calls.clear()
    mended = Guard(tiny, neutral, 3)
    assert len(calls) == 2
    assert mended.perplexity_ratio() == pytest.approx(1.0)
