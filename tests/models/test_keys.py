"""What is part of the key of every cache: nothing that can change a figure is outside it."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from persona_prune.models.by_name import load_model
from persona_prune.models.digests import exact_digest, rounded_digest, tokenizer_digest
from persona_prune.models.loaded import LoadedModel, fingerprint, maskable_linears, same_weights


@pytest.fixture(scope="module")
def own(tiny):
    """A copy whose weights the tests may change."""
    return copy.deepcopy(tiny.model)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_edit_of_any_weight_changes_the_key(own, data):
    # lm-eval 4063, transformers 46859: a cache that knows a model by a part of it gives one model's results to another.
    named = dict(own.named_parameters())
    name = data.draw(st.sampled_from(sorted(named)))
    weight = named[name].data.view(-1)
    at = data.draw(st.integers(0, len(weight) - 1))
    before = exact_digest(own.named_parameters())
    kept = weight[at].clone()
    bits = weight.view(torch.int32)
    bits[at] ^= 1 << data.draw(st.integers(0, 31))  # the last bit of the fraction, and all up to the sign
    assert exact_digest(own.named_parameters()) != before
    weight[at] = kept
    assert exact_digest(own.named_parameters()) == before


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_edit_that_bf16_can_hold_changes_the_fingerprint(own, data):
    linears = maskable_linears(own)
    weight = linears[data.draw(st.sampled_from(sorted(linears)))].weight.data.view(-1)
    at = data.draw(st.integers(0, len(weight) - 1))
    before, kept = fingerprint(own), weight[at].clone()
    bits = weight.to(torch.bfloat16)[at].view(torch.int16)
    weight[at] = (bits ^ (1 << data.draw(st.integers(0, 14)))).view(torch.bfloat16)
    changed = fingerprint(own)
    weight[at] = kept
    assert changed != before == fingerprint(own)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_weights_in_another_order_are_others(own, data):
    linears = maskable_linears(own)
    weight = linears[data.draw(st.sampled_from(sorted(linears)))].weight.data
    kept, before = weight.clone(), fingerprint(own)
    rows, columns = weight.shape
    how = data.draw(st.sampled_from(["swap", "rows", "columns", "turn"]))
    if how == "swap":
        flat = weight.view(-1)
        one, other = (data.draw(st.integers(0, len(flat) - 1)) for _ in range(2))
        flat[[one, other]] = flat[[other, one]]
    elif how == "turn":
        weight.copy_(kept.T.reshape(rows, columns))
    else:
        axis = how == "columns"
        order = data.draw(st.permutations(range(weight.shape[axis])))
        weight.copy_(kept.index_select(int(axis), torch.tensor(order)))
    same = torch.equal(weight.bfloat16(), kept.bfloat16())
    changed = fingerprint(own)
    weight.copy_(kept)
    assert (changed == before) == same


def test_two_signs_turned_round_are_not_lost():
    weights = torch.ones(3, 1000)
    before = rounded_digest([("a", weights)])
    for one in range(0, 1000, 111):
        for other in range(one + 1, 1000, 97):
            turned = weights.clone()
            turned[1, [one, other]] *= -1
            assert rounded_digest([("a", turned)]) != before


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    tiny.model.save_pretrained(directory)
    tiny.tokenizer.save_pretrained(directory)
    return directory


def neuron(model) -> None:
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data[:, 77] *= 40


def between(model) -> None:
    """Change what a sample of every 11th value, all that version 0.1.0 looked at in a layer this small, doesn't see."""
    weight = model.model.layers[0].mlp.down_proj.weight.data.view(-1)
    weight[torch.arange(len(weight)) % 11 != 0] *= 40


def yarn(model) -> None:
    own = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    model.config.rope_parameters = {**model.config.rope_parameters, **own}


def embeddings(model) -> None:
    model.get_input_embeddings().weight.data[[1, 2]] *= 8


def base_end(model) -> None:
    model.generation_config.eos_token_id = 0


@pytest.mark.parametrize("edit", [neuron, between, yarn, embeddings, base_end])
def test_an_edited_checkpoint_is_another_model(checkpoint, tmp_path, edit):
    # transformers 29777: rope scaling; lm-eval 2715: other weights at the same place.
    dense = load_model(str(checkpoint), dtype="float32", device="cpu")
    again = load_model(str(checkpoint), dtype="float32", device="cpu")
    assert (dense.fingerprint, dense.arithmetic) == (again.fingerprint, again.arithmetic)
    edit(again.model)
    again.model.save_pretrained(tmp_path)
    again.tokenizer.save_pretrained(tmp_path)
    edited = load_model(str(tmp_path), dtype="float32", device="cpu")
    assert edited.arithmetic != dense.arithmetic
    assert (edited.fingerprint != dense.fingerprint) == (edit in (neuron, between))


def test_another_tokenizer_is_another_model(checkpoint, tmp_path):
    first = load_model(str(checkpoint), dtype="float32", device="cpu").tokenizer
    first.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    file.write_text(json.dumps(content))
    other = type(first).from_pretrained(tmp_path)
    first("padding and truncation are no part of it", padding="max_length", max_length=40, truncation=True)
    assert tokenizer_digest(first) == tokenizer_digest(type(first).from_pretrained(checkpoint))
    assert tokenizer_digest(first) != tokenizer_digest(other)


def test_a_masked_model_has_no_key_of_its_own(tiny, own):
    loaded = LoadedModel(name="own", model=own, tokenizer=tiny.tokenizer, fingerprint=tiny.fingerprint)
    weight = next(iter(maskable_linears(own).values())).weight.data
    kept = weight.clone()
    weight[::2] = 0
    with pytest.raises(ValueError, match="not dense"):
        _ = loaded.arithmetic
    weight.copy_(kept)
    read = loaded.arithmetic
    weight[::2] = 0
    assert loaded.arithmetic == read
    weight.copy_(kept)


def test_files_of_version_0_1_0_know_half_a_fingerprint(tiny):
    old, other = tiny.fingerprint[:16], "0123456789abcdef"
    assert len(tiny.fingerprint) == 32
    assert same_weights(old, tiny.fingerprint)
    assert same_weights(tiny.fingerprint, old)
    assert same_weights(old, old)
    assert not same_weights(other, tiny.fingerprint)
    assert not same_weights(old + other, tiny.fingerprint)
    assert not same_weights("", tiny.fingerprint)


def test_float16_and_an_odd_number_of_values():
    linear = nn.Linear(3, 5, bias=False).to(torch.float16)
    before = exact_digest([("w", linear.weight)])
    linear.weight.data.view(torch.int16)[4, 2] ^= 1
    assert exact_digest([("w", linear.weight)]) != before
