import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona_prune.masks import applying, switching
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.masks.switching import DENSE, PersonaSwitcher
from persona_prune.models.loaded import LoadedModel, fingerprint, maskable_linears
from tests.conftest import tiny_model

NAMES = ("a", "b", "c")


def random_mask(model, model_fingerprint: str, seed: int, kept: float = 0.8) -> Mask:
    """A mask that shares a tenth of the weights, which every mask drops, with the others."""
    generator, shared = np.random.default_rng(seed), np.random.default_rng(99)
    shapes = {name: (m.out_features, m.in_features) for name, m in maskable_linears(model).items()}
    keep = {n: (generator.random(s) < kept) & (shared.random(s) < 0.9) for n, s in shapes.items()}
    return Mask({n: pack_bits(torch.from_numpy(k)) for n, k in keep.items()}, shapes, model_fingerprint, {})


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"], scope="module")
def loaded(request, cache) -> LoadedModel:
    found = tiny_model()
    found.model.to(request.param)
    return found


@pytest.fixture(scope="module")
def masks(loaded) -> dict[str, Mask]:
    return {name: random_mask(loaded.model, loaded.fingerprint, seed) for seed, name in enumerate(NAMES)}


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(model, expected) -> bool:
    return all(torch.equal(parameter, expected[name]) for name, parameter in model.named_parameters())


def multiplied(dense, masks, shares, gamma):
    """The naive oracle: a copy of every weight, multiplied with the formula's gate."""
    result = dict(dense)
    total = sum(shares.values())
    for name in next(iter(masks.values())).shapes:
        weight = dense[f"{name}.weight"]
        taken = torch.zeros(weight.shape)
        for persona, share in shares.items():
            taken += share / total * (1 - gamma) * (~masks[persona].keep(name)).float()
        result[f"{name}.weight"] = (weight * (1 - taken).round(decimals=6)).to(weight.dtype)
    return result


def fail_as(switcher):
    switcher.mix({"a": 0.5, "c": 0.5})
    raise RuntimeError


VOICES = st.one_of(
    st.just({}),
    st.sampled_from(NAMES).map(lambda name: {name: 1.0}),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.1, 0.3, 0.7, 2.0]), min_size=1),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(st.tuples(VOICES, st.sampled_from([0.0, 0.25, 0.5])), min_size=1, max_size=6))
def test_any_sequence_is_what_multiplication_gives(loaded, masks, sequence):
    dense = weights(loaded.model)
    with PersonaSwitcher(loaded, masks) as switcher:
        for shares, gamma in sequence:
            switcher.mix(shares, gamma=gamma)
            assert same(loaded.model, multiplied(dense, masks, shares, gamma) if shares else dense)
    assert same(loaded.model, dense)
    assert fingerprint(loaded.model) == loaded.fingerprint


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_one_persona_is_what_masked_makes_bit_for_bit(loaded, masks, gamma):
    with masked(loaded.model, masks["b"], model_fingerprint=loaded.fingerprint, gamma=gamma):
        expected = weights(loaded.model)
    with PersonaSwitcher(loaded, masks) as switcher:
        switcher.switch("a")
        switcher.switch("b", gamma=gamma)
        assert same(loaded.model, expected)


def test_a_mix_by_hand(loaded, masks):
    """Shares 1 and 3 of masks with gamma 0: what only the first drops keeps 3/4, what both drop nothing."""
    dense = weights(loaded.model)
    with PersonaSwitcher(loaded, {"a": masks["a"], "b": masks["b"]}) as switcher:
        switcher.mix({"a": 1, "b": 3})
        for name, module in maskable_linears(loaded.model).items():
            before, a, b = dense[f"{name}.weight"], ~masks["a"].keep(name), ~masks["b"].keep(name)
            assert torch.equal(module.weight[a & ~b], (before[a & ~b].float() * 0.75).to(before.dtype))
            assert torch.equal(module.weight[b & ~a], (before[b & ~a].float() * 0.25).to(before.dtype))
            assert (module.weight[a & b] == 0).all()
            assert torch.equal(module.weight[~a & ~b], before[~a & ~b])


def test_what_all_drop_is_stored_once_and_only_differences_are_written(loaded, masks, monkeypatch):
    pair = {name: masks[name] for name in ("a", "b")}
    written = []
    write = applying.write_weights
    with PersonaSwitcher(loaded, pair) as switcher:
        shared = sum(int((~masks["a"].keep(n) & ~masks["b"].keep(n)).sum()) for n in masks["a"].shapes)
        either = {name: round(mask.sparsity * mask.weights) for name, mask in pair.items()}
        assert switcher.bytes == 4 * (either["a"] + either["b"] - shared)
        switcher.switch("a")
        value = next(loaded.model.parameters()).element_size()
        assert switcher.bytes == 4 * (either["a"] + either["b"] - shared) + value * either["a"]
        monkeypatch.setattr(switching, "write_weights", lambda m, p, v: (written.append(len(p)), write(m, p, v)))
        switcher.switch("b")
        assert sum(written) == either["a"] + either["b"] - 2 * shared


def test_two_thirds_of_the_same_mask_are_the_mask(loaded, masks):
    """Shares are divided by their sum, and what the parts drop in common adds up to the whole."""
    with masked(loaded.model, masks["a"], model_fingerprint=loaded.fingerprint):
        expected = weights(loaded.model)
    twins = {"one": masks["a"], "two": masks["a"], "three": masks["a"], "other": masks["b"]}
    with PersonaSwitcher(loaded, twins) as switcher:
        switcher.mix({"one": 0.1, "two": 0.2, "three": 0.3})
        assert same(loaded.model, expected)


def test_everything_is_restored_when_the_body_raises(loaded, masks):
    dense = weights(loaded.model)
    switcher = PersonaSwitcher(loaded, masks)
    with pytest.raises(RuntimeError), switcher:
        fail_as(switcher)
    assert same(loaded.model, dense)


@pytest.mark.parametrize("at", [0, 3, 10, 25])
def test_an_interrupt_within_a_switch_leaves_the_dense_model(loaded, masks, monkeypatch, at):
    dense = weights(loaded.model)
    with PersonaSwitcher(loaded, masks) as switcher:
        switcher.switch("a")
        write, calls = applying.write_weights, iter(range(1000))

        def interrupted(module, positions, values):
            number = next(calls)
            write(module, positions, values)
            if number == at:
                raise KeyboardInterrupt

        monkeypatch.setattr(switching, "write_weights", interrupted)
        with pytest.raises(KeyboardInterrupt):
            switcher.switch("b")
        assert switcher.voice == DENSE
        assert same(loaded.model, dense)
        monkeypatch.undo()
        switcher.switch("b")
        assert same(loaded.model, multiplied(dense, masks, {"b": 1.0}, 0.0))
    assert same(loaded.model, dense)


@pytest.mark.parametrize(("at", "again"), [(3, 4), (1, 3), (2, 5), (3, 6), (0, 2), (20, 25)])
def test_an_interrupt_while_the_dense_model_is_being_restored_is_made_up_for(loaded, masks, monkeypatch, at, again):
    dense = weights(loaded.model)
    with PersonaSwitcher(loaded, masks) as switcher:
        switcher.switch("a")
        write, calls = applying.write_weights, iter(range(1000))

        def interrupted(module, positions, values):
            if next(calls) in (at, again):
                raise KeyboardInterrupt
            write(module, positions, values)

        monkeypatch.setattr(switching, "write_weights", interrupted)
        with pytest.raises(KeyboardInterrupt):
            switcher.mix({"a": 0.5, "c": 0.5})
        monkeypatch.undo()
        switcher.switch("b")
        assert same(loaded.model, multiplied(dense, masks, {"b": 1.0}, 0.0))
    assert same(loaded.model, dense)


def test_what_is_on_already_is_not_written_again(loaded, masks):
    with PersonaSwitcher(loaded, masks) as switcher:
        assert (switcher.switches, switcher.seconds) == (0, 0.0)
        switcher.switch(None)
        switcher.switch("a")
        switcher.switch("a")
        switcher.mix({"a": 0.4})
        assert switcher.switches == 1
        switcher.switch("a", gamma=0.5)
        switcher.close()
        assert switcher.switches == 3
        assert switcher.seconds > 0


def test_labels(loaded, masks):
    with PersonaSwitcher(loaded, masks) as switcher:
        labels = [str(switcher.voice)]
        switcher.switch("a")
        labels.append(str(switcher.voice))
        switcher.mix({"a": 7, "b": 3}, gamma=0.25)
        labels.append(str(switcher.voice))
    assert labels == ["dense", "a", "0.7 a + 0.3 b (gamma 0.25)"]


def test_bad_requests_are_refused_and_change_nothing(loaded, masks):
    with PersonaSwitcher(loaded, masks) as switcher:
        switcher.switch("a")
        before = weights(loaded.model)
        with pytest.raises(ValueError, match="no persona 'z': there is a, b, c"):
            switcher.switch("z")
        with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\), got 1"):
            switcher.switch("b", gamma=1)
        with pytest.raises(ValueError, match="the share of b must be above 0, got -1"):
            switcher.mix({"a": 1, "b": -1})
        assert same(loaded.model, before)
        assert str(switcher.voice) == "a"


def test_masks_of_another_model_and_masked_models_are_refused(loaded, masks):
    dense = weights(loaded.model)
    other = Mask(masks["b"].bits, masks["b"].shapes, "0123456789abcdef", {})
    with pytest.raises(
        ValueError, match="persona b: the mask was made for the model with fingerprint 0123456789abcdef"
    ):
        PersonaSwitcher(loaded, {"a": masks["a"], "b": other})
    with (
        masked(loaded.model, masks["a"], model_fingerprint=loaded.fingerprint),
        pytest.raises(ValueError, match="is not dense"),
    ):
        PersonaSwitcher(loaded, masks)
    with pytest.raises(ValueError, match="at least one"):
        PersonaSwitcher(loaded, {})
    assert same(loaded.model, dense)


def test_a_bare_model_does(loaded, masks):
    dense = weights(loaded.model)
    with PersonaSwitcher(loaded.model, {"a": masks["a"]}) as switcher, switcher.using("a") as model:
        assert model is loaded.model
        assert same(model, multiplied(dense, masks, {"a": 1.0}, 0.0))


def test_nobody_switches_while_another_thread_generates(loaded, masks):
    seen = []
    with PersonaSwitcher(loaded, masks) as switcher:

        def other():
            with switcher.using({"b": 1, "c": 1}):
                seen.append(str(switcher.voice))

        with switcher.using("a"):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(0.2)
            seen.append(str(switcher.voice))
        thread.join()
    assert seen == ["a", "0.5 b + 0.5 c"]
