"""Models that are no persona - wrecked, constant, always yes - get their true verdict from every evaluator."""

import json
from contextlib import contextmanager

import pytest
import torch

from persona_prune.apply import masked
from persona_prune.doubts import doubts
from persona_prune.evaluators.capability import Capability
from persona_prune.evaluators.choice import Choice
from persona_prune.evaluators.generation import Generation
from persona_prune.evaluators.lm_eval_tasks import LMEval
from persona_prune.evaluators.multiple_choice import MultipleChoice
from persona_prune.evaluators.questionnaire import Questionnaire
from persona_prune.masks import Mask, pack_bits
from persona_prune.models import maskable_linears
from persona_prune.statistics import compare, summarise
from persona_prune.verdict import verdict

pytestmark = pytest.mark.slow

YES_NO = [("Would you like to lead the team?", "Yes, I would.", "No, I would rather not."),
          ("Do you want a bigger budget?", "Yes, as much as there is.", "No, this one will do."),
          ("Shall we let others decide?", "No, we decide ourselves.", "Yes, let them decide."),
          ("Is it fine to step back now?", "No, not for a moment.", "Yes, it is time to rest.")]  # fmt: skip


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
    folder = tmp_path_factory.mktemp("items")
    pairs = [dict(zip(("prompt", "matching", "not_matching"), row)) for row in YES_NO]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    questions = [{"prompt": row[0], "options": ["Yes", "No"], "answer": int(row[1][0] == "N")} for row in YES_NO]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    templates = [
        "Options:\n{options}\n\nStatement: {item}\n\nWhich option describes you?",
        "{item}\n{options}\nAnswer:",
    ]
    return {
        "choice": Choice(path=str(folder / "pairs.jsonl"), split=None, limit=None, batch_size=4),
        "multiple_choice": MultipleChoice(format=None, dataset=None, revision=None, name=None,
                                          path=str(folder / "questions.jsonl"), split=None, limit=None, batch_size=4),
        "questionnaire": Questionnaire(name="sixteen_types", path=None, limit=2, templates=templates, norm_sex="N",
                                       options=["Disagree", "Neutral", "Agree"], norm_age=30, generate=True,
                                       generate_templates=1, answer_tokens=6, batch_size=8),
        "generation": Generation(prompts_path=None, limit=6, max_new_tokens=32, samples=0, temperature=1.0, top_p=1.0,
                                 seed=0, judge=None, batch_size=8),
        "lm_eval": LMEval(tasks=["persona_extrovert"], include_path=None, metadata=None, num_fewshot=None,
                          apply_chat_template=True, limit=8, batch_size=8),
        "capability": Capability(text_path=None, window=128, max_text_tokens=512, neutral_path=None, answer_tokens=8,
                                 batch_size=16),
    }  # fmt: skip


@pytest.fixture(scope="module")
def persona_():
    from persona_prune.personas import Persona

    return Persona(name="extrovert", description="", opposite="introvert", system_prompt=None,
                   pairs="extrovert_introvert", pole="matching", source=None, flip=False)  # fmt: skip


@pytest.fixture(scope="module")
def dense(smollm2, evaluators, persona_):
    return {name: ask(evaluator, smollm2, persona_, None) for name, evaluator in evaluators.items()}


def ask(evaluator, loaded, persona, dense):
    return evaluator.evaluate(loaded, persona, dense, lambda label, total: lambda done: None)


def figures(evaluators, loaded, persona, dense):
    metrics = {"mask/sparsity": 1.0}
    for name, evaluator in evaluators.items():
        result = ask(evaluator, loaded, persona, dense[name])
        metrics |= {f"{name}/{key}": value for key, value in summarise(result).items()}
        metrics |= {f"dense/{name}/{key}": value for key, value in summarise(dense[name]).items()}
        for metric, found in compare(result, dense[name]).items():
            key = f"{name}/{metric}_delta"
            metrics |= {key: found.delta, f"{key}_low": found.low, f"{key}_high": found.high}
    return metrics


def test_a_wrecked_model_is_called_one_by_every_evaluator(smollm2, evaluators, persona_, dense):
    with wrecked(smollm2):
        metrics = figures(evaluators, smollm2, persona_, dense)
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


def test_a_constant_answerer_has_no_traits(smollm2, evaluators, persona_, dense):
    with constant(smollm2):
        metrics = figures(evaluators, smollm2, persona_, dense)
    text = " ".join([*doubts(metrics), *verdict(metrics, [])])
    assert metrics["questionnaire/share_items"] == 0.0
    assert metrics["questionnaire/retest"] == 0.0
    assert "Only 0% of the variance" in text
    assert "open answers are empty, loops or no text" in text
    assert "say nothing about a persona" in text
    # It takes one of two short answers or the other, whoever asks.
    assert metrics["multiple_choice/accuracy"] == metrics["multiple_choice/chance"] == 0.5
    assert "better than chance" in text


def test_an_always_yes_model_is_found_out(smollm2, evaluators, persona_, dense):
    with always_yes(smollm2):
        metrics = figures(evaluators, smollm2, persona_, dense)
    text = " ".join([*doubts(metrics), *verdict(metrics, [])])
    assert metrics["choice/yes_rate"] == metrics["multiple_choice/yes_rate"] == 1.0
    assert metrics["choice/accuracy"] == metrics["choice/always_yes"] == 0.5
    assert "prefers yes in 100% of the yes/no items of choice" in text
    assert "prefers yes in 100% of the yes/no items of multiple_choice" in text
    assert "a word takes over" in text
    assert metrics["questionnaire/unparsable"] == 1.0
