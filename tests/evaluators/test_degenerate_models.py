"""Models that are no persona - wrecked, constant, always yes - get their true verdict from every evaluator."""

from contextlib import contextmanager

import pytest
import torch

from persona_prune.evaluators.statistics import compare, summarise
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.models.loaded import maskable_linears
from persona_prune.report.doubts import doubts
from persona_prune.report.verdict import verdict
from tests.evaluators.every_evaluator import ask, every_evaluator

pytestmark = pytest.mark.slow


@contextmanager
def wrecked(loaded):
    """Drop every maskable weight."""
    linears = maskable_linears(loaded.model)
    shapes = {name: tuple(module.weight.shape) for name, module in linears.items()}
    bits = {name: pack_bits(torch.zeros(shape, dtype=torch.bool)) for name, shape in shapes.items()}
    with masked(loaded.model, Mask(bits, shapes, loaded.fingerprint, {}), model_fingerprint=loaded.fingerprint):
        yield


@contextmanager
def speaking(loaded, change):
    """Change the logits of the model."""
    hook = loaded.model.get_output_embeddings().register_forward_hook(lambda module, given, logits: change(logits))
    try:
        yield
    finally:
        hook.remove()


def constant(loaded):
    """Say the same whatever was asked: the prompt and the answer so far don't matter."""
    fixed = torch.randn(loaded.model.config.vocab_size, generator=torch.Generator().manual_seed(0))
    return speaking(loaded, lambda logits: fixed.expand_as(logits))


def always_yes(loaded):
    """Prefer yes to no, and otherwise be oneself."""
    ids = [loaded.tokenizer(text, add_special_tokens=False).input_ids[0] for text in ("Yes", " Yes", "yes", " yes")]
    boost = torch.zeros(loaded.model.config.vocab_size)
    boost[ids] = 20.0
    return speaking(loaded, lambda logits: logits + boost)


@pytest.fixture(scope="module")
def evaluators(tmp_path_factory):
    return every_evaluator(tmp_path_factory.mktemp("items"), batch_size=8)


@pytest.fixture(scope="module")
def dense(smollm2, evaluators):
    return {name: ask(evaluator, smollm2) for name, evaluator in evaluators.items()}


def figures(evaluators, loaded, dense):
    metrics = {"mask/sparsity": 1.0}
    for name, evaluator in evaluators.items():
        result = ask(evaluator, loaded, dense[name])
        metrics |= {f"{name}/{key}": value for key, value in summarise(result).items()}
        metrics |= {f"dense/{name}/{key}": value for key, value in summarise(dense[name]).items()}
        for metric, found in compare(result, dense[name]).items():
            key = f"{name}/{metric}_delta"
            metrics |= {key: found.delta, f"{key}_low": found.low, f"{key}_high": found.high}
    return metrics


def test_a_wrecked_model_is_called_one_by_every_evaluator(smollm2, evaluators, dense):
    with wrecked(smollm2):
        metrics = figures(evaluators, smollm2, dense)
    text = " ".join([*doubts(metrics), *verdict(metrics, [])])
    assert metrics["capability/perplexity_ratio"] > 10
    assert metrics["capability/neutral_drift"] > 1
    assert "say nothing about a persona" in text
    assert metrics["choice/matching_log_prob_delta"] < -1
    assert "of the variance of its answers to the questionnaire" in text
    assert "name no option" in text
    assert "open answers are empty, loops or no text" in text
    assert "better than chance" in text
    assert metrics["lm_eval/persona_extrovert/acc"] <= 0.75


def test_a_constant_answerer_has_no_traits(smollm2, evaluators, dense):
    with constant(smollm2):
        metrics = figures(evaluators, smollm2, dense)
    text = " ".join([*doubts(metrics), *verdict(metrics, [])])
    assert metrics["questionnaire/share_items"] == 0.0
    assert metrics["questionnaire/retest"] == 0.0
    assert "Only 0% of the variance" in text
    assert "open answers are empty, loops or no text" in text
    assert "say nothing about a persona" in text
    # It takes one of two short answers or the other, whoever asks.
    assert metrics["multiple_choice/accuracy"] == metrics["multiple_choice/chance"] == 0.5
    assert "better than chance" in text


def test_an_always_yes_model_is_found_out(smollm2, evaluators, dense):
    with always_yes(smollm2):
        metrics = figures(evaluators, smollm2, dense)
    text = " ".join([*doubts(metrics), *verdict(metrics, [])])
    assert metrics["choice/yes_rate"] == metrics["multiple_choice/yes_rate"] == 1.0
    assert metrics["choice/accuracy"] == metrics["choice/always_yes"] == 0.5
    assert "prefers yes in 100% of the yes/no items of choice" in text
    assert "prefers yes in 100% of the yes/no items of multiple_choice" in text
    assert "a word takes over" in text
    assert metrics["questionnaire/unparsable"] == 1.0


ADJECTIVES = "lively talkative sociable cheerful outgoing warm bubbly energetic friendly loud spontaneous fun playful"


def saying(monkeypatch, loaded, answer):
    """Put answers into the model's mouth: ``answer(prompt)``, whatever it would have said."""

    def spoken(_, prompts, **settings):
        texts = [answer(loaded.tokenizer.decode(ids)) for ids in prompts]
        return [tuple(loaded.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]

    monkeypatch.setattr("persona_prune.evaluators.speech.answers", spoken)


def asked(rendered: str) -> str:
    return rendered.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]


def spoken_to(smollm2, evaluators, dense):
    found = ask(evaluators["speech"], smollm2, dense["speech"])
    return {f"speech/{k}": v for k, v in summarise(found).items()} | {
        f"speech/{k}_delta": c.delta for k, c in compare(found, dense["speech"]).items()
    }


def test_speech_of_a_wrecked_model_is_no_persona(smollm2, evaluators, dense):
    with wrecked(smollm2):
        found = spoken_to(smollm2, evaluators, dense)
    assert found["speech/expressed"] == found["speech/coherent"] == 0.0
    assert any("empty, loops or no text" in doubt for doubt in doubts(found))


def test_speech_of_a_constant_answerer_is_no_persona(smollm2, evaluators, dense):
    with constant(smollm2):
        found = spoken_to(smollm2, evaluators, dense)
    assert found["speech/expressed"] == 0.0


def test_speech_of_a_model_that_says_one_sentence_to_everything_is_off_topic(smollm2, evaluators, dense, monkeypatch):
    saying(monkeypatch, smollm2, lambda prompt: "I love big parties, loud music and meeting hundreds of new people!")
    found = spoken_to(smollm2, evaluators, dense)
    assert found["speech/persona"] > 0.5  # the judges can't tell
    assert found["speech/on_topic"] < 0.7
    assert found["speech/expressed"] < found["speech/on_topic"] + 1e-9


def test_speech_of_a_model_that_always_says_yes_is_no_persona(smollm2, evaluators, dense, monkeypatch):
    saying(monkeypatch, smollm2, lambda prompt: "Yes.")
    found = spoken_to(smollm2, evaluators, dense)
    assert found["speech/expressed"] <= 0.2


def test_speech_that_says_the_question_again_is_an_echo(smollm2, evaluators, dense, monkeypatch):
    saying(monkeypatch, smollm2, lambda prompt: f"{asked(prompt)} I go out with all my friends, the more the merrier!")
    found = spoken_to(smollm2, evaluators, dense)
    assert found["speech/echo"] == 1.0
    assert found["speech/expressed"] == 0.0
    assert any("saying the question again" in doubt for doubt in doubts(found))


def test_speech_of_the_personas_adjectives_is_no_answer(smollm2, evaluators, dense, monkeypatch):
    saying(monkeypatch, smollm2, lambda prompt: ADJECTIVES)
    found = spoken_to(smollm2, evaluators, dense)
    assert found["speech/on_topic"] < 0.5
    assert found["speech/expressed"] < 0.5
