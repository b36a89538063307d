import math
from collections import Counter

import pytest
import torch

from persona_prune.calibration.neutral import Guard, Neutral
from persona_prune.common.cache import cache_root
from persona_prune.models.likelihood import score
from persona_prune.models.loaded import maskable_linears
from persona_prune.models.rows import Row, pair_rows
from tests.reference import oracles


def test_cost_against_single_sequences(tiny, pairs):
    """Perplexity over all tokens of the text, drift over all those of the answers, which are not of one length."""
    rows = pair_rows(tiny.tokenizer, pairs, 512)
    text = tuple(Row(r.branches[1][:1], (r.branches[1][1:],)) for r in rows[1:4] if len(r.branches[1]) > 1)
    neutral = Neutral((), (), text, tuple(Row(r.prompt, r.branches[1:]) for r in rows[:3]))
    guard = Guard(tiny, neutral, 2)
    assert guard.perplexity_ratio() == pytest.approx(1.0)

    def per_token(rows):
        scored = [oracles.answer_log_probs(tiny.model, r.prompt, r.branches[0]) for r in rows]
        return sum(x.sum().item() for x in scored) / sum(len(x) for x in scored)

    assert len({len(row.branches[0]) for row in neutral.validation_answers}) > 1
    before = per_token(text), per_token(neutral.validation_answers)
    weight = next(iter(maskable_linears(tiny.model).values())).weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    try:
        after = per_token(text), per_token(neutral.validation_answers)
        ratio, drift = guard.perplexity_ratio(), guard.on_prompts().drift
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert ratio == pytest.approx(math.exp(before[0] - after[0]), rel=1e-3)
    assert drift == pytest.approx(before[1] - after[1], abs=1e-3)
    assert abs(drift) > 1e-3


def test_first_tokens_that_become_others(tiny, pairs):
    """Counted against one prompt at a time: which token's share among first tokens changes most?"""
    rows = pair_rows(tiny.tokenizer, pairs, 300)
    answers = tuple(Row(row.prompt, row.branches[:1]) for row in rows)
    text = (Row(rows[0].branches[0][:1], (rows[0].branches[0][1:],)),)
    guard = Guard(tiny, Neutral((), (), text, answers), 3)
    assert guard.on_prompts().first_token_shift == 0.0

    before = Counter(own_first_token(tiny, row.prompt) for row in rows)
    weights = [module.weight for module in maskable_linears(tiny.model).values()]
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                weight.mul_(-2.0)
        after = Counter(own_first_token(tiny, row.prompt) for row in rows)
        shift = guard.on_prompts().first_token_shift
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=True):
                weight.copy_(old)
    assert shift == max(abs(after[token] - before[token]) for token in before | after) / len(rows) > 0


def own_first_token(loaded, prompt):
    with torch.no_grad():
        return int(loaded.model(torch.tensor([prompt])).logits[0, -1].argmax())


def test_what_the_dense_model_makes_of_neutral_material_is_measured_once(tiny, pairs, monkeypatch):
    rows = pair_rows(tiny.tokenizer, pairs, 300)
    text = tuple(Row(r.branches[1][:1], (r.branches[1][1:],)) for r in rows[1:3])
    neutral = Neutral((), (), text, tuple(Row(r.prompt, r.branches[1:]) for r in rows[:2]))
    calls = []
    monkeypatch.setattr("persona_prune.calibration.neutral.score", lambda *a, **k: (calls.append(1), score(*a, **k))[1])
    Guard(tiny, neutral, 3)
    assert len(calls) == 2
    again = Guard(tiny, neutral, 3)
    assert len(calls) == 2
    assert (again.perplexity_ratio(), again.on_prompts().drift) == pytest.approx((1.0, 0.0), abs=1e-6)
    for damaged in (cache_root() / "guard").glob("*.json"):
        damaged.write_text("[1.0]")
    calls.clear()
    mended = Guard(tiny, neutral, 3)
    assert len(calls) == 2
    assert mended.perplexity_ratio() == pytest.approx(1.0)
