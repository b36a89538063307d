import pytest
import torch

from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.models.loaded import fingerprint, maskable_linears


@pytest.fixture
def mask(tiny) -> Mask:
    generator = torch.Generator().manual_seed(1)
    linears = maskable_linears(tiny.model)
    bits = {n: pack_bits(torch.rand(m.weight.shape, generator=generator) > 0.3) for n, m in linears.items()}
    return Mask(bits, {n: tuple(m.weight.shape) for n, m in linears.items()}, tiny.fingerprint, {})


def weights(tiny):
    return {name: parameter.detach().clone() for name, parameter in tiny.model.named_parameters()}


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_weights_are_multiplied_with_the_gate(tiny, mask, gamma):
    before = weights(tiny)
    with masked(tiny.model, mask, model_fingerprint=tiny.fingerprint, gamma=gamma):
        for name, module in maskable_linears(tiny.model).items():
            keep = mask.keep(name).float()
            gate = keep + gamma * (1 - keep)
            assert torch.equal(module.weight, before[f"{name}.weight"] * gate)
        untouched = tiny.model.get_input_embeddings().weight
        assert torch.equal(untouched, before["model.embed_tokens.weight"])


def test_restore_is_bit_exact_when_the_body_raises(tiny, mask):
    before = weights(tiny)
    with pytest.raises(RuntimeError), masked(tiny.model, mask, model_fingerprint=tiny.fingerprint):
        raise RuntimeError
    assert all(torch.equal(parameter, before[name]) for name, parameter in tiny.model.named_parameters())
    assert fingerprint(tiny.model) == tiny.fingerprint


def test_a_mask_of_another_model_is_refused_and_nothing_changes(tiny, mask):
    before = weights(tiny)
    other = Mask(mask.bits, mask.shapes, "0123456789abcdef", {})
    with (
        pytest.raises(ValueError, match="fingerprint 0123456789abcdef"),
        masked(tiny.model, other, model_fingerprint=tiny.fingerprint),
    ):
        pass
    smaller = Mask(dict(list(mask.bits.items())[:-1]), dict(list(mask.shapes.items())[:-1]), tiny.fingerprint, {})
    with (
        pytest.raises(ValueError, match="Linears of another model"),
        masked(tiny.model, smaller, model_fingerprint=tiny.fingerprint),
    ):
        pass
    assert all(torch.equal(parameter, before[name]) for name, parameter in tiny.model.named_parameters())


def test_impossible_gamma_is_refused(tiny, mask):
    with (
        pytest.raises(ValueError, match="gamma must be in"),
        masked(tiny.model, mask, model_fingerprint=tiny.fingerprint, gamma=1.0),
    ):
        pass
