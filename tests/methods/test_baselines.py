"""Baselines on a small model: what they do to it, and that nothing of it stays."""

from dataclasses import replace
from types import SimpleNamespace

import jinja2
import pytest
import torch

from persona_prune.methods.baselines.base import Material
from persona_prune.methods.baselines.lora import Lora
from persona_prune.methods.baselines.prompt import Prompt, SystemPrompt
from persona_prune.methods.baselines.rag import Retrieval
from persona_prune.methods.baselines.steering import Steering, SteeringVector, decoder_layers, mean_differences
from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.likelihood import score
from persona_prune.models.rows import pair_rows
from persona_prune.personas.pairs import Pair


def quiet(label, total):
    return lambda done: None


class FreeGuard:
    def perplexity_ratio(self):
        return 1.0


@pytest.fixture
def material(persona, pairs):
    return Material(
        persona=persona,
        pairs=pairs,
        validation=pairs[:2],
        guard=FreeGuard,
        batch_size=2,
        max_tokens=512,
        seed=0,
    )


def margins(loaded, pairs):
    answers = score(loaded, pair_rows(loaded.tokenizer, pairs, 512), 4)
    return [(a.log_probs.mean() - b.log_probs.mean()).item() for a, b in answers]


def test_a_system_prompt_replaces_the_templates_own(tiny):
    with SystemPrompt("You live on a boat.").applied(tiny) as spoken_to:
        text = chat_prompt(tiny.tokenizer, "Hello?", spoken_to.before("Hello?"))
    assert text.startswith("<|im_start|>system\nYou live on a boat.<|im_end|>")
    assert text.count("<|im_start|>system") == 1
    assert tiny.before("Hello?") == ()


def test_templates_without_a_system_role_get_an_exchange(tiny, monkeypatch):
    original = tiny.tokenizer.apply_chat_template

    def refuse(messages, **kwargs):
        if messages[0]["role"] == "system":
            raise jinja2.TemplateError("System role not supported")
        return original(messages, **kwargs)

    monkeypatch.setattr(tiny.tokenizer, "apply_chat_template", refuse)
    with SystemPrompt("You live on a boat.").applied(tiny) as spoken_to:
        assert [m["role"] for m in spoken_to.before("x")] == ["user", "assistant"]


def test_templates_that_drop_the_system_role_without_a_word_get_an_exchange(tiny, monkeypatch):
    original = tiny.tokenizer.apply_chat_template

    def drop(messages, **kwargs):
        return original([message for message in messages if message["role"] != "system"], **kwargs)

    monkeypatch.setattr(tiny.tokenizer, "apply_chat_template", drop)
    with SystemPrompt(" You live on a boat.\n").applied(tiny) as spoken_to:
        assert [m["role"] for m in spoken_to.before("x")] == ["user", "assistant"]
        assert "You live on a boat." in chat_prompt(tiny.tokenizer, "Hello", spoken_to.before("Hello"))


def test_a_persona_without_a_system_prompt_is_refused(persona):
    with pytest.raises(ValueError, match=r"persona\.system_prompt"):
        Prompt(name="prompt").check(persona)


def test_retrieval_puts_the_nearest_last():
    pairs = [
        Pair("What do you cook on Sundays?", "stew", "x"),
        Pair("Where do you go sailing?", "the bay", "x"),
        Pair("What do you cook when guests come?", "a roast", "x"),
    ]
    retrieval = Retrieval(pairs, 2)
    messages = retrieval.examples("What do you cook when many guests come over?")
    assert [m["content"] for m in messages] == [pairs[0].prompt, "stew", pairs[2].prompt, "a roast"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2
    assert Retrieval(pairs[::-1], 2).examples("sailing") == retrieval.examples("sailing")
    # More neighbours than pairs is no error.
    assert len(Retrieval(pairs, 9).examples("sailing")) == 6


def test_steering_vector_equals_a_plain_loop(tiny, pairs):
    rows = pair_rows(tiny.tokenizer, pairs, 512)
    found = mean_differences(tiny, rows, [0, 1], batch_size=2)
    total = torch.zeros(64)
    for row in rows:
        means = []
        for branch in row.branches:
            ids = torch.tensor([[*row.prompt, *branch]])
            with torch.no_grad():
                hidden = tiny.model(input_ids=ids, output_hidden_states=True).hidden_states
            means.append(hidden[1][0, len(row.prompt) :].mean(0))  # the embeddings come first
        total += means[0] - means[1]
    torch.testing.assert_close(found[0], total / len(rows), atol=1e-4, rtol=1e-3)
    assert not torch.equal(found[0], found[1])


def test_steering_adds_and_takes_away(tiny, pairs):
    before = margins(tiny, pairs)
    hooks = len(decoder_layers(tiny.model)[1]._forward_hooks)
    vector = SteeringVector(1, torch.randn(64, generator=torch.Generator().manual_seed(0)))
    with vector.applied(tiny):
        steered = margins(tiny, pairs)
    assert steered != pytest.approx(before, abs=1e-3)
    assert margins(tiny, pairs) == before
    assert len(decoder_layers(tiny.model)[1]._forward_hooks) == hooks


def test_steering_chooses_by_the_validation_pairs(tiny, material, pairs):
    steering = Steering(name="steering", depths=[0.0, 0.5], strengths=[0.5, 8.0], max_perplexity_ratio=1.2)
    best = steering.build(tiny, material, quiet)
    with best.applied(tiny):
        reached = sum(margins(tiny, material.validation))
    vectors = mean_differences(tiny, pair_rows(tiny.tokenizer, pairs, 512), [0, 1], batch_size=2)
    for layer in (0, 1):
        for strength in (0.5, 8.0):
            with SteeringVector(layer, strength * vectors[layer]).applied(tiny):
                assert sum(margins(tiny, material.validation)) <= reached + 1e-4


@pytest.mark.parametrize(
    ("ratios", "strength"),
    [([1.0, 1.0, 1.0], 8.0), ([1.0, 1.2, 1.3], 2.0), ([1.1, 1.3, 1.0], 8.0), ([1.4, 1.3, 1.5], 2.0)],
)
def test_steering_takes_the_largest_margin_that_is_affordable_or_else_the_cheapest(
    tiny, material, pairs, monkeypatch, ratios, strength
):
    monkeypatch.setattr("persona_prune.methods.baselines.steering._margin", lambda *_: next(growing))
    growing, costs = iter([0.1, 0.2, 0.3]), iter(ratios)
    guard = SimpleNamespace(perplexity_ratio=lambda: next(costs))
    steering = Steering(name="steering", depths=[0.5], strengths=[0.5, 2.0, 8.0], max_perplexity_ratio=1.2)
    best = steering.build(tiny, replace(material, guard=lambda: guard), quiet)
    vectors = mean_differences(tiny, pair_rows(tiny.tokenizer, pairs, 512), [1], batch_size=2)
    torch.testing.assert_close(best.vector, strength * vectors[1])


def test_lora_learns_the_matching_answers_and_leaves_no_trace(tiny, material, pairs):
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    lora = Lora(name="lora", rank=4, alpha=8, learning_rate=0.01, epochs=6, batch_size=2)
    adapter = lora.build(tiny, material, quiet)

    def matching():
        answers = score(tiny, pair_rows(tiny.tokenizer, pairs, 512), 4)
        return sum(a.log_probs.mean().item() for a, _ in answers) / len(answers)

    dense = matching()
    with adapter.applied(tiny):
        assert matching() > dense + 0.5
    after = tiny.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    assert adapter.bytes == sum(4 * 4 * (m.in_features + m.out_features) for m in linears(tiny))


def linears(loaded):
    from persona_prune.models.loaded import maskable_linears

    return maskable_linears(loaded.model).values()


def test_a_question_with_several_wrong_options_is_one_example():
    pairs = [Pair("Sailing?", "Yes.", wrong) for wrong in "abc"] + [Pair("Cooking?", "No.", "d")]
    contents = [message["content"] for message in Retrieval(pairs, 2).examples("sailing")]
    assert contents == ["Cooking?", "No.", "Sailing?", "Yes."]
