import math

import pytest
import torch

from persona_prune.evaluators.capability import Capability, _first_word, _shift
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.models.generation import greedy_answers
from persona_prune.models.loaded import maskable_linears


def quiet(label, total):
    return lambda done: None


@pytest.fixture
def capability(tmp_path):
    text, prompts = tmp_path / "t.txt", tmp_path / "n.jsonl"
    text.write_text("The river rose in the night. By morning the lower field was a lake. " * 4)
    prompts.write_text('{"prompt": "Name a colour."}\n{"prompt": "What is two plus two, in words?"}\n')
    return Capability(
        text_path=str(text), window=16, max_text_tokens=40, neutral_path=str(prompts), answer_tokens=5, batch_size=2
    )


def test_perplexity_equals_a_plain_loop_over_windows(tiny, persona, capability):
    result = capability.evaluate(tiny, persona, None, quiet)
    ids = tiny.tokenizer(capability._text()).input_ids[:40]
    total = count = 0
    for start in (0, 16, 32):
        window = torch.tensor([ids[start : start + 16]])
        with torch.no_grad():
            loss = tiny.model(input_ids=window, labels=window).loss
        total += loss.item() * (window.shape[1] - 1)
        count += window.shape[1] - 1
    assert result.metrics["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_greedy_answers_do_not_depend_on_padding(tiny):
    prompts = [(5, 6, 7, 8, 9), (10, 11)]
    together = greedy_answers(tiny, prompts, max_new_tokens=6, batch_size=2)
    apart = [greedy_answers(tiny, [prompt], max_new_tokens=6, batch_size=1)[0] for prompt in prompts]
    assert together == apart


def test_an_unchanged_model_drifts_nowhere(tiny, persona, capability):
    dense = capability.evaluate(tiny, persona, None, quiet)
    again = capability.evaluate(tiny, persona, dense, quiet)
    assert again.metrics["perplexity_ratio"] == pytest.approx(1.0)
    assert again.metrics["neutral_first_word_shift"] == 0.0
    assert again.means()["neutral_drift"] == pytest.approx(0.0, abs=1e-6)
    assert again.means()["neutral_first_word_kept"] == 1.0


def test_a_wrecked_model_is_found_out(tiny, persona, capability):
    dense = capability.evaluate(tiny, persona, None, quiet)
    linears = maskable_linears(tiny.model)
    bits = {n: pack_bits(torch.zeros(m.weight.shape, dtype=torch.bool)) for n, m in linears.items()}
    nothing = Mask(bits, {n: tuple(m.weight.shape) for n, m in linears.items()}, tiny.fingerprint, {})
    with masked(tiny.model, nothing, model_fingerprint=tiny.fingerprint):
        wrecked = capability.evaluate(tiny, persona, dense, quiet)
    assert wrecked.means()["neutral_drift"] > 1.0
    assert wrecked.means()["neutral_first_word_kept"] < 1.0


def test_first_words():
    assert _first_word("  **No**, no.") == "no"
    assert _first_word("...") == ""
    # "no" takes over from nothing, "the" falls from all to a quarter.
    assert _shift(["no", "no", "no", "the"], ["the"] * 4) == pytest.approx(0.75)


def test_unreadable_inputs(capability, persona, tmp_path):
    from dataclasses import replace

    empty, odd = tmp_path / "e.txt", tmp_path / "o.jsonl"
    empty.write_text(" \n")
    odd.write_text('{"prompt": "a"}\n{"promt": "b"}\n')
    for change, message in (
        ({"text_path": str(empty)}, "the file is empty"),
        ({"text_path": "/nowhere"}, "no file at /nowhere"),
        ({"neutral_path": str(odd)}, "line 2: expected an object with 'prompt'"),
        ({"neutral_path": str(empty)}, "the file is empty"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            replace(capability, **change).check(persona)
