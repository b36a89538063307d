import math

import pytest
import torch

from persona_prune.calibration.damage import Damage, generic_damage
from persona_prune.calibration.gradients import Sketch, add_gradient, gradient_sketches, weight_gradients
from persona_prune.calibration.objectives import and_own, log_probability, logistic_margin, margin
from persona_prune.models.likelihood import Answer
from persona_prune.models.loaded import maskable_linears
from persona_prune.models.rows import Row, pair_rows


def plain_log_prob(model, prompt, answer):
    """Mean log-probability of an answer from one unpacked, differentiable forward pass."""
    log_probs = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return torch.stack([log_probs[len(prompt) - 1 + i, token] for i, token in enumerate(answer)]).mean()


def likelihood(_, answers):
    return torch.stack([only.log_probs.mean() for (only,) in answers]).sum()


def test_equals_autograd_on_single_sequences(tiny, pairs):
    rows = pair_rows(tiny.tokenizer, pairs, 512)
    neutral = [Row(row.prompt, row.branches[:1]) for row in rows[:2]]
    linears = maskable_linears(tiny.model)
    with weight_gradients(linears) as found:
        add_gradient(tiny.model, rows, margin, weight=1.0, pad_id=0, batch_size=2)
        add_gradient(tiny.model, neutral, likelihood, weight=0.5, pad_id=0, batch_size=2)
    weights = [module.weight.requires_grad_(True) for module in linears.values()]
    value = sum(
        plain_log_prob(tiny.model, r.prompt, r.branches[0]) - plain_log_prob(tiny.model, r.prompt, r.branches[1])
        for r in rows
    ) / len(rows)
    value = value + 0.5 * sum(plain_log_prob(tiny.model, r.prompt, r.branches[0]) for r in neutral) / len(neutral)
    expected = torch.autograd.grad(value, weights)
    for weight in weights:
        weight.requires_grad_(False)
    for name, gradient in zip(linears, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


def test_the_model_is_left_as_it_was_also_after_an_error(tiny, pairs):
    linears = maskable_linears(tiny.model)
    before = {name: module.weight.detach().clone() for name, module in linears.items()}
    rows = pair_rows(tiny.tokenizer, pairs, 512)

    def fail():
        with weight_gradients(linears):
            add_gradient(tiny.model, rows, margin, weight=1.0, pad_id=0, batch_size=2)
            # Freed as soon as they were added: no second copy of the weights.
            assert all(module.weight.grad is None for module in linears.values())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    for name, module in linears.items():
        assert torch.equal(module.weight, before[name])
        assert not module.weight.requires_grad
        assert module.weight.grad is None
        assert not module.weight._post_accumulate_grad_hooks


def test_damage_equals_autograd_of_the_sampled_answers(tiny, monkeypatch):
    """With sampling replaced by the likeliest token, delta can be had from autograd on one sequence at a time."""
    monkeypatch.setattr(torch, "multinomial", lambda p, n, generator: p.argmax(-1, keepdim=True))
    rows = [Row((5, 6, 7), ((8, 9),)), Row((10, 11), ((12, 13, 14, 15, 16),))]
    linears = maskable_linears(tiny.model)
    found = generic_damage(tiny.model, linears, rows, pad_id=0, batch_size=2, seed=0)
    name = "model.layers.0.mlp.up_proj"
    inputs, outputs, tokens = torch.zeros(64), torch.zeros(160), 0
    for row in rows:
        kept = []

        def keep(_module, read, out, kept=kept):
            kept.extend([read[0], out.requires_grad_()])

        handle = linears[name].register_forward_hook(keep)
        sequence = torch.tensor([[*row.prompt, *row.branches[0]]])
        logits = tiny.model(input_ids=sequence).logits[0].log_softmax(-1)
        handle.remove()
        at = logits[len(row.prompt) - 1 : len(row.prompt) - 1 + len(row.branches[0])]
        (delta,) = torch.autograd.grad(at.max(-1).values.sum(), kept[1])
        inputs += kept[0][0].detach().square().sum(0)
        outputs += delta[0].square().sum(0)
        tokens += sequence.shape[1]
    assert isinstance(found[name], Damage)
    torch.testing.assert_close(found[name].inputs, inputs / tokens, atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(found[name].outputs, outputs / tokens, atol=1e-7, rtol=1e-4)


def test_logistic_margin_by_hand():
    first, second = Answer(torch.tensor([-1.0, -3.0]), torch.ones(2)), Answer(torch.tensor([-5.0]), torch.ones(1))
    # Per token -2 against -5, in sum -4 against -5.
    expected = -math.log(1 + math.exp(-3)) - math.log(1 + math.exp(-1 / 8))
    assert logistic_margin([0], [[first, second]]).item() == pytest.approx(expected)


def test_own_answers_by_hand():
    first, second = Answer(torch.tensor([-1.0, -3.0]), torch.ones(2)), Answer(torch.tensor([-5.0]), torch.ones(1))
    # The margin is 3; the first answer has -2 per token.
    assert and_own(margin, 0.5)([0], [[first, second]]).item() == pytest.approx(3 - 0.5 * 2)


def test_first_tokens_of_neutral_answers_count_more():
    only = Answer(torch.tensor([-1.0, -2.0, -6.0]), torch.ones(3))
    assert log_probability([0], [[only]]).item() == pytest.approx(-3.0 + 0.3 * -1.5)


def test_a_sketch_of_a_matrix_of_low_rank_is_exact():
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(40, 30)
    sketch = Sketch(linear, 3, torch.Generator().manual_seed(1))
    gradient = torch.zeros(30, 40)
    deltas, inputs = torch.randn(3, 30, generator=generator), torch.randn(3, 40, generator=generator)
    for _ in range(4):
        mix = torch.randn(50, 3, generator=generator)
        delta, x = mix @ deltas, torch.randn(50, 3, generator=generator) @ inputs
        sketch.add(delta, x)
        gradient += delta.T @ x
    torch.testing.assert_close(sketch.low_rank().dense(), gradient, atol=1e-2, rtol=1e-3)


def test_sketches_are_near_the_best_approximation_of_the_gradient(tiny, pairs):
    rows = pair_rows(tiny.tokenizer, pairs, 512)
    linears = maskable_linears(tiny.model)
    with weight_gradients(linears) as full:
        add_gradient(tiny.model, rows, margin, weight=1.0, pad_id=0, batch_size=2)
    with gradient_sketches(tiny.model, linears, rank=4, seed=0) as sketches:
        add_gradient(tiny.model, rows, margin, weight=1.0, pad_id=0, batch_size=2)
    assert all(not module.weight.requires_grad for module in linears.values())
    for name, gradient in full.items():
        best = torch.linalg.svdvals(gradient)[4:].square().sum().sqrt()
        error = (sketches[name].low_rank().dense() - gradient).norm()
        assert error <= 2 * best + 1e-6 * gradient.norm()
