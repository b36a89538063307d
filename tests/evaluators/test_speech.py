"""Speech on a small random model: what is measured of its answers, each figure by another way."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from persona_prune.evaluators import judges, speech
from persona_prune.evaluators.degenerate import measure
from persona_prune.evaluators.results import EvalResult
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.generation import greedy_answers
from persona_prune.personas.pair_files import embedded_prompts
from persona_prune.personas.pairs import normalise
from persona_prune.personas.persona import Mix
from tests.evaluators import every_evaluator
from tests.reference import oracles


def quiet(label, total):
    return lambda done: None


@pytest.fixture(autouse=True)
def without_encoder(monkeypatch):
    for module in (judges, speech):
        monkeypatch.setattr(module, "encoder_is_there", lambda: False)


@pytest.fixture
def evaluator():
    return every_evaluator.speech(limit=4, samples=2)


def test_greedy_answers_are_those_of_single_prompts(tiny, persona, evaluator):
    one = replace(evaluator, batch_size=1).evaluate(tiny, persona, None, quiet)
    many = evaluator.evaluate(tiny, persona, None, quiet)
    assert one.samples == many.samples
    assert [sample["prompt"] for sample in many.samples] == list(embedded_prompts(persona)[:4])
    for sample in many.samples:
        prompt = tiny.tokenizer(chat_prompt(tiny.tokenizer, sample["prompt"]), add_special_tokens=False).input_ids
        (ids,) = greedy_answers(tiny, [tuple(prompt)], max_new_tokens=12, batch_size=1)
        assert sample["answer"] == tiny.tokenizer.decode(ids, skip_special_tokens=True).strip()
        texts = [sample["answer"], *sample["sampled_answers"]]
        assert sample["values"]["degenerate"] == pytest.approx(np.mean([measure(text).degenerate for text in texts]))


def test_each_prompt_is_sampled_by_itself(tiny, persona, evaluator):
    all_four = evaluator.evaluate(tiny, persona, None, quiet).samples
    first_two = replace(evaluator, limit=2).evaluate(tiny, persona, None, quiet).samples
    assert [s["sampled_answers"] for s in first_two] == [s["sampled_answers"] for s in all_four[:2]]
    other_seed = replace(evaluator, limit=2, seed=6).evaluate(tiny, persona, None, quiet).samples
    assert [s["sampled_answers"] for s in other_seed] != [s["sampled_answers"] for s in first_two]
    assert [s["answer"] for s in other_seed] == [s["answer"] for s in first_two]


def test_expressed_is_coherent_on_topic_and_heard(tiny, persona, evaluator, monkeypatch):
    """Answers put into the model's mouth: each misses for one reason alone, or for none."""
    said = {
        "I go out with all my friends and dance all night in loud company.": 1.0,
        "I prefer to spend my evenings alone, reading quietly at home.": 0.0,  # the opposite
        "friends " * 12: 0.0,  # a loop
        "": 0.0,
    }
    prompts = list(embedded_prompts(persona)[:4])
    echo = f"{prompts[0]} I go out with all my friends and dance all night in loud company."
    items = [speech._Item(persona, prompt) for prompt in [*prompts, prompts[0]]]
    figures = evaluator._judged(items, [*said, echo])
    assert [figure["expressed"] for figure in figures] == [*said.values(), 0.0]
    assert [figure["echo"] for figure in figures] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert figures[0]["persona"] > 0.5 > figures[1]["persona"]
    monkeypatch.setattr(speech, "encoder_is_there", lambda: True)
    monkeypatch.setattr(speech, "topic_percentile", lambda texts, prompts, others: np.linspace(0.1, 1.0, len(texts)))
    monkeypatch.setattr(speech, "_floor", lambda pairs: 0.5)
    off_topic = evaluator._judged(items, [*said, echo])
    assert [figure["on_topic"] for figure in off_topic] == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert off_topic[0]["expressed"] == 0.0


def test_fluency_is_what_the_dense_model_makes_of_the_answers(tiny, persona, evaluator):
    one = replace(evaluator, samples=0, limit=2)
    found = one.evaluate(tiny, persona, None, quiet)
    whole = one.complete(tiny, found, quiet)
    for before, after in zip(found.samples, whole.samples, strict=True):
        assert "tokens" not in after
        prompt = tiny.tokenizer(chat_prompt(tiny.tokenizer, after["prompt"]), add_special_tokens=False).input_ids
        expected = oracles.answer_log_probs(tiny.model, tuple(prompt), tuple(before["tokens"][0]))
        assert after["values"]["fluency"] == pytest.approx(expected.mean().item(), abs=1e-4)


def test_a_wrecked_model_is_heard_nowhere(tiny, persona, evaluator):
    dense = evaluator.evaluate(tiny, persona, None, quiet)
    # As it comes back from the cache.
    stored = EvalResult(json.loads(json.dumps(list(dense.samples))), dense.metrics)
    bits = {name: pack_bits(torch.zeros(m.weight.shape, dtype=torch.bool)) for name, m in tiny.linears.items()}
    shapes = {name: tuple(m.weight.shape) for name, m in tiny.linears.items()}
    with masked(tiny.model, Mask(bits, shapes, tiny.fingerprint, {}), model_fingerprint=tiny.fingerprint):
        wrecked = evaluator.evaluate(tiny, persona, stored, quiet)
    means = wrecked.means()
    assert means["degenerate"] == 1.0
    assert means["coherent"] == means["expressed"] == 0.0
    for before, after in zip(dense.samples, wrecked.samples, strict=True):
        assert after["dense_answer"] == before["answer"] != after["answer"]
        assert after["values"]["above_dense"] in (0.0, 0.5, 1.0)
        assert "above_dense" not in before["values"]


def test_what_written_answers_score_stands_beside(tiny, persona, evaluator):
    metrics = replace(evaluator, samples=0, limit=1).evaluate(tiny, persona, None, quiet).metrics
    assert metrics["written_persona"] > 0.5 > metrics["written_opposite"]
    assert 0.3 < metrics["written_expressed"] <= 1.0
    assert metrics["judge_auc"] > 0.75 > metrics["judge_auc_shuffled"]
    assert metrics["judge_auc_statements"] > 0.6
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_mix_is_asked_what_its_parts_are(persona, evaluator):
    thinker = replace(persona, name="thinker", opposite="feeler", pairs="feeling_thinking", pole="not_matching")
    both = Mix(
        name="mix",
        description="",
        opposite=None,
        system_prompt=None,
        source=None,
        weights={"extrovert": 1.0, "thinker": 1.0},
        pooled=True,
        personas=[persona, thinker],
        flip=False,
    )
    items = replace(evaluator, limit=5)._items(both)
    assert [item.who.name for item in items] == ["extrovert"] * 3 + ["thinker"] * 2
    assert evaluator.prompts(both) == {normalise(item.prompt) for item in evaluator._items(both)}


def test_the_identity_changes_with_what_is_asked_and_who_judges(persona, evaluator, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "What {now}?"}\n{"prompt": "And then?"}\n')
    kinds = [
        evaluator,
        replace(evaluator, limit=3),
        replace(evaluator, samples=1),
        replace(evaluator, max_new_tokens=13),
        replace(evaluator, prompts_path=str(path)),
        replace(evaluator, other_traits=True),
    ]
    identities = [json.dumps(kind.identity(persona)) for kind in kinds]
    assert len(set(identities)) == len(identities)
    flipped = json.dumps(evaluator.identity(replace(persona, flip=True)))
    assert flipped not in identities


def test_prompts_are_needed(persona, evaluator, tmp_path):
    with pytest.raises(ValueError, match=r"evaluator\.speech\.prompts_path=FILE"):
        evaluator.check(replace(persona, pairs=None))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ValueError, match="the file is empty"):
        replace(evaluator, prompts_path=str(empty)).check(persona)
    with pytest.raises(FileNotFoundError, match="no file at"):
        replace(evaluator, prompts_path=str(tmp_path / "absent.jsonl")).check(persona)


def test_of_a_file_of_pairs_those_prompts_are_asked_that_choice_would_ask(persona, evaluator, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"What of {n}?", "matching": "All.", "not_matching": "None."} for n in range(20)]
    rows[3]["prompt"] = ""  # as on line 407 of the public power-seeking pairs
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = replace(evaluator, prompts_path=str(path), limit=None)._items(persona)
    assert len(asked) == 19
