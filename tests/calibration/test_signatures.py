from dataclasses import fields, replace

import pytest
import torch

from persona_prune.calibration import signatures
from persona_prune.calibration.signature_cache import cache_file, load, save
from persona_prune.calibration.signatures import Statistics, collect, merged, shared_inputs
from persona_prune.models.loaded import maskable_linears
from persona_prune.models.rows import pair_rows
from tests.reference import oracles


def signature(tiny, pairs, *, positions="response", batch_size=2):
    rows = pair_rows(tiny.tokenizer, pairs, 512)
    return rows, collect(
        tiny.model,
        maskable_linears(tiny.model),
        rows,
        pad_id=0,
        batch_size=batch_size,
        positions=positions,
        model_fingerprint=tiny.fingerprint,
        data_hash="d",
    )


@pytest.mark.parametrize("positions", ["response", "all"])
def test_equals_a_loop_over_single_sequences(tiny, pairs, positions):
    rows, poles = signature(tiny, pairs, positions=positions)
    linears = maskable_linears(tiny.model)
    for pole, found in enumerate(poles):
        sequences = [(row.prompt, row.branches[pole]) for row in rows]
        extra = sum(len(row.prompt) for row in rows) if positions == "all" else 0
        assert found.tokens == sum(len(row.branches[pole]) for row in rows) + extra
        for name in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj", "model.layers.1.mlp.up_proj"):
            expected = oracles.input_statistics(tiny.model, linears[name], sequences, positions)
            for statistic, values in expected.items():
                got = getattr(found[name], statistic)
                assert got.dtype == torch.float32
                torch.testing.assert_close(got, values.float(), atol=1e-5, rtol=1e-5)


def test_linears_that_read_one_tensor_share_an_entry(tiny):
    leader = shared_inputs(tiny.model, maskable_linears(tiny.model))
    layer = "model.layers.1."
    assert leader[f"{layer}self_attn.v_proj"] == leader[f"{layer}self_attn.k_proj"] == f"{layer}self_attn.q_proj"
    assert leader[f"{layer}mlp.up_proj"] == f"{layer}mlp.gate_proj"
    assert leader[f"{layer}mlp.down_proj"] == f"{layer}mlp.down_proj"
    assert len(set(leader.values())) == 2 * 4


def test_hooks_are_gone_afterwards_also_after_an_error(tiny, pairs):
    signature(tiny, pairs)
    linears = maskable_linears(tiny.model)
    with pytest.raises(RuntimeError), signatures.input_hooks(linears, lambda name, tensor: None):
        raise RuntimeError
    assert not any(module._forward_pre_hooks for module in tiny.model.modules())


def test_order_of_pairs_does_not_matter(tiny, pairs):
    _, (first, _) = signature(tiny, pairs)
    _, (second, _) = signature(tiny, pairs[::-1])
    assert all(torch.equal(first[n].mean_abs, second[n].mean_abs) for n in first.leader)


def test_no_pairs_are_refused(tiny):
    with pytest.raises(ValueError, match="no calibration pairs"):
        signature(tiny, [])


def test_save_and_load_and_damage(tiny, pairs, tmp_path):
    _, poles = signature(tiny, pairs)
    path = tmp_path / "s.safetensors"
    save(path, poles)
    loaded = load(path)
    for ours, theirs in zip(poles, loaded, strict=True):
        assert (ours.tokens, ours.sequences, ours.leader) == (theirs.tokens, theirs.sequences, theirs.leader)
        for name in ours.leader:
            assert torch.equal(ours[name].sequence_variance, theirs[name].sequence_variance)
    path.write_bytes(path.read_bytes()[:-8])
    assert load(path) is None
    assert load(tmp_path / "absent") is None


def test_cache_name_depends_on_everything():
    names = {
        cache_file(model, data, {"positions": positions})
        for model in "ab"
        for data in "cd"
        for positions in ("response", "all")
    }
    assert len(names) == 8


def test_sets_that_are_read_apart_give_what_one_pass_over_all_gives(tiny, pairs):
    _, whole = signature(tiny, pairs)
    parts = [signature(tiny, pairs[:1])[1], signature(tiny, pairs[1:])[1]]
    found = merged(parts, "both")
    for one, other in zip(found, whole, strict=True):
        assert (one.tokens, one.sequences, one.data_hash) == (other.tokens, other.sequences, "both")
        for name, statistics in other.statistics.items():
            for field in fields(Statistics):
                expected = getattr(statistics, field.name)
                torch.testing.assert_close(getattr(one[name], field.name), expected, rtol=1e-5, atol=1e-6)
    assert merged(parts[:1], "one") is parts[0]
    foreign = tuple(replace(part, model_fingerprint="f") for part in parts[1])
    with pytest.raises(ValueError, match="different models"):
        merged([parts[0], foreign], "both")
