"""How rows are laid out is decided once, in one place, and changes no figure."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from persona_prune.calibration.damage import generic_damage
from persona_prune.calibration.signatures import collect
from persona_prune.methods.baselines.steering import mean_differences
from persona_prune.models import packing as packing_module
from persona_prune.models.likelihood import score
from persona_prune.models.loaded import LoadedModel, maskable_linears
from persona_prune.models.packing import Packing, laid_out, packing, reach, split_prefix
from persona_prune.models.rows import Row, pair_rows
from persona_prune.models.self_check import Found
from tests.models.every_architecture import LONG, SHARED
from tests.reference.architectures import WINDOW
from tests.reference.architectures import tiny as tiny_of

LAYOUTS = ("packed", "padded", "alone")


@pytest.fixture
def forced(tiny, monkeypatch):
    """Have the tiny model asked in a layout."""

    def force(layout, longest=None):
        known = {tiny.model: Packing(Found(layout, frozenset()), longest)}
        monkeypatch.setattr(packing_module, "_KNOWN", known)

    return force


def figures(tiny, pairs):
    rows = pair_rows(tiny.tokenizer, pairs, 512)
    linears = maskable_linears(tiny.model)
    single = [Row(row.prompt, row.branches[:1]) for row in rows]
    values = [answer.log_probs for answers in score(tiny, rows, 2) for answer in answers]
    for positions in ("response", "all"):
        signatures = collect(
            tiny.model,
            linears,
            rows,
            pad_id=0,
            batch_size=3,
            positions=positions,
            model_fingerprint="",
            data_hash="",
        )
        for signature in signatures:
            assert signature.sequences == len(rows)
            for own in signature.statistics.values():
                values += [own.mean, own.mean_abs, own.mean_square, own.sequence_mean, own.sequence_variance]
    damage = generic_damage(tiny.model, linears, single, pad_id=0, batch_size=2, seed=0)
    values += [own.inputs for own in damage.values()]
    return values + list(mean_differences(tiny, rows, [0, 1], batch_size=2).values())


@pytest.mark.parametrize("layout", [*LAYOUTS, "windows"])
def test_every_layout_gives_the_same_figures_statistics_and_directions(tiny, pairs, forced, layout):
    expected = figures(tiny, pairs)
    if layout == "windows":
        lengths = sorted(len(row) for row in pair_rows(tiny.tokenizer, pairs, 512))
        forced("shared prefix", lengths[len(lengths) // 2])
    else:
        forced(layout)
    for one, other in zip(expected, figures(tiny, pairs), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_a_model_is_asked_once_and_what_is_slower_is_told_once(caplog):
    caplog.set_level(logging.INFO, "persona_prune")
    model = tiny_of("qwen3_5_text")
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    loaded = LoadedModel("tiny", model, SimpleNamespace(pad_token_id=0), "")
    assert packing(model).found.layout == "padded"
    asked = len(passes)
    assert asked <= 4
    for _ in range(2):
        score(loaded, SHARED, 2)
        assert packing(model) is packing(model)
    (told,) = [record.message for record in caplog.records]
    assert "can't share a row" in told
    assert "slower, and right" in told


def test_rows_within_a_window_stay_packed_behind_one_prefix_and_longer_ones_are_asked_alone(caplog):
    caplog.set_level(logging.INFO, "persona_prune")
    model = tiny_of("mistral")
    shared, rest = split_prefix(model, SHARED)
    assert len(shared) == 5
    assert all(batch.allowed is not None for _, batch in laid_out(model, rest, pad_id=0, batch_size=2))
    assert split_prefix(model, [*SHARED, *LONG[:1]])[0] == ()
    mixed = [*SHARED, *LONG]
    seen = {i: batch for indices, batch in laid_out(model, mixed, pad_id=0, batch_size=2) for i in indices}
    assert sorted(seen) == list(range(len(mixed)))
    assert {i for i, batch in seen.items() if batch.alone} == {i for i, row in enumerate(mixed) if len(row) > WINDOW}
    assert [f"more than {WINDOW} tokens" in record.message for record in caplog.records] == [True]


def test_where_answers_share_no_row_a_batch_has_as_many_sequences_as_rows_were_asked_for():
    model = tiny_of("mamba2")
    for _, batch in laid_out(model, SHARED, pad_id=0, batch_size=2):
        assert batch.allowed is None
        assert batch.input_ids.shape[0] == 2
        assert batch.input_ids[batch.branch == -2].eq(0).all()


def test_lengths_that_a_configuration_names():
    assert reach({"max_position_embeddings": 100, "sliding_window": 8}) == 8
    assert reach({"max_position_embeddings": 100, "sliding_window": 8, "use_sliding_window": False}) == 100
    assert reach({"sliding_window": 8, "layer_types": ["full_attention"]}) is None
    assert reach({"attention_window_size": 7, "max_window_layers": 3, "_sliding_window_pattern": 6}) == 7
    assert reach({"window_size": 0, "n_positions": 50}) == 50


class Routed(nn.Module):
    """Lets only some tokens into an MLP, as an expert."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden):
        flat = hidden.flatten(0, 1)
        chosen = flat[:, 0] > 0
        out = torch.zeros_like(flat)
        out[chosen] = self.mlp(flat[chosen])
        return out.view_as(hidden)


def test_statistics_of_a_linear_that_only_some_tokens_reach_are_refused():
    """Selected by their place in the row, other tokens' inputs would have been summed up."""
    model = tiny_of("llama")
    model.model.layers[1].mlp = Routed(model.model.layers[1].mlp)
    with pytest.raises(ValueError, match=r"layers.1.mlp.mlp.gate_proj.* one vector a token"):
        collect(
            model,
            maskable_linears(model),
            SHARED,
            pad_id=0,
            batch_size=2,
            positions="response",
            model_fingerprint="",
            data_hash="",
        )


def test_a_model_that_sees_the_answer_or_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="lets tokens see those that follow"):
        packing(tiny_of("bert"))
    with pytest.raises(ValueError, match="lets tokens see those that follow"):
        packing(tiny_of("electra").to(torch.bfloat16))
    restless = tiny_of("llama")
    restless.model.layers[0].register_forward_hook(lambda _m, _i, output: output + torch.rand_like(output))
    with pytest.raises(ValueError, match="gives other figures each time"):
        packing(restless)


def test_a_model_without_finite_figures_is_asked_plainly():
    model = tiny_of("llama")
    model.model.norm.weight.fill_(torch.nan)
    assert packing(model).found == Found("alone", frozenset())


def test_half_precision_is_no_reason_to_go_slower_and_hides_no_leak():
    assert packing(tiny_of("llama").to(torch.bfloat16)).found.layout == "shared prefix"
    for kind in ("qwen3_5_text", "mamba2", "falcon_h1", "mpt", "bart", "roberta"):
        changes = {"is_decoder": True} if kind == "roberta" else {}
        assert packing(tiny_of(kind, **changes).to(torch.bfloat16)).found.layout in ("padded", "alone")
    assert packing(tiny_of("minicpm3").to(torch.bfloat16)).found.layout == "packed"
