import pytest
import torch

from persona_prune.gradients import add_gradient, log_probability, margin, output_fisher, weight_gradients
from persona_prune.likelihood import Row, pair_rows
from persona_prune.models import maskable_linears


def plain_log_prob(model, prompt, answer):
    """Mean log-probability of an answer from one unpacked, differentiable forward pass."""
    log_probs = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return torch.stack([log_probs[len(prompt) - 1 + i, token] for i, token in enumerate(answer)]).mean()


def test_equals_autograd_on_single_sequences(tiny, pairs):
    rows = pair_rows(tiny.tokenizer, pairs, 512)
    neutral = [Row(row.prompt, row.branches[:1]) for row in rows[:2]]
    linears = maskable_linears(tiny.model)
    with weight_gradients(linears) as found:
        add_gradient(tiny.model, rows, margin, weight=1.0, pad_id=0, batch_size=2)
        add_gradient(tiny.model, neutral, log_probability, weight=0.5, pad_id=0, batch_size=2)
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


def test_output_fisher_equals_autograd_of_the_sampled_answers(tiny, monkeypatch):
    """With sampling replaced by the likeliest token, delta can be had from autograd on one sequence at a time."""
    monkeypatch.setattr(torch, "multinomial", lambda p, n, generator: p.argmax(-1, keepdim=True))
    rows = [Row((5, 6, 7), ((8, 9),)), Row((10, 11), ((12, 13, 14),))]
    linears = maskable_linears(tiny.model)
    found = output_fisher(tiny.model, linears, rows, pad_id=0, batch_size=2, seed=0)
    name = "model.layers.0.mlp.up_proj"
    total, tokens = torch.zeros(160), 0
    for row in rows:
        kept = []
        handle = linears[name].register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out.requires_grad_()))
        sequence = torch.tensor([[*row.prompt, *row.branches[0]]])
        logits = tiny.model(input_ids=sequence).logits[0].log_softmax(-1)
        handle.remove()
        at = logits[len(row.prompt) - 1 : len(row.prompt) - 1 + len(row.branches[0])]
        (delta,) = torch.autograd.grad(at.max(-1).values.sum(), kept)
        total += delta[0].square().sum(0)
        tokens += sequence.shape[1]
    torch.testing.assert_close(found[name], total / tokens, atol=1e-7, rtol=1e-4)
