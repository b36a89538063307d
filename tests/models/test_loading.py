import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from persona_prune.models.devices import pick_device, pick_dtype
from persona_prune.models.loaded import fingerprint, maskable_linears
from persona_prune.models.sources import HubModel


def test_embeddings_and_head_are_left_out_by_identity(tiny):
    linears = maskable_linears(tiny.model)
    assert len(linears) == 2 * 7
    assert tiny.model.lm_head.weight is tiny.model.model.embed_tokens.weight
    assert not any("lm_head" in name or "embed" in name for name in linears)


def test_fingerprint_tells_models_apart_but_not_precisions(tiny):
    model = copy.deepcopy(tiny.model)
    weight = model.model.layers[0].mlp.up_proj.weight
    before = fingerprint(model)
    assert fingerprint(model.to(torch.bfloat16)) == before
    model.to(torch.float32)
    # bf16 and back is another model in float32, but not at the precision that is compared.
    assert fingerprint(model) == before == tiny.fingerprint
    weight.data[0, 0] = 5.0
    assert fingerprint(model) != before


def test_what_masks_leave_alone_is_part_of_every_cache_key(tiny):
    before = tiny.arithmetic
    for part in ("model.norm", "lm_head"):
        other = copy.deepcopy(tiny.model)
        other.get_submodule(part).weight.data.mul_(3.0)
        assert replace(tiny, model=other).arithmetic != before
    assert replace(tiny, model=copy.deepcopy(tiny.model)).arithmetic == before


def test_how_a_prompt_is_put_to_the_model_is_part_of_every_cache_key(tiny, monkeypatch):
    keys = []
    for day in ("Monday", "Tuesday"):  # as templates with strftime_now render them
        template = "It is " + day + ".{% for message in messages %}{{ message.content }}{% endfor %}"
        monkeypatch.setattr(tiny.tokenizer, "chat_template", template)
        keys.append(tiny.arithmetic)
    assert keys[0] != keys[1]


@pytest.mark.parametrize("shape", [(4096, 4096), (1024, 4096), (4096, 14336), (576, 1536)])
def test_the_fingerprint_sees_more_than_one_column(shape):
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False))
    with torch.no_grad():
        model[0].weight.zero_()
        before = fingerprint(model)
        model[0].weight[:, 1:] = 1.0
    assert fingerprint(model) != before


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up = nn.Parameter(torch.zeros(2, 3, 4))
        self.router = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), Conv1D(3, 3)), "1 is a transposed Conv1D"),
        (nn.Sequential(nn.Linear(2, 2).to(torch.float8_e4m3fn)), r"0 is quantised \(torch\.float8_e4m3fn\)"),
        (nn.ModuleDict({"experts": Experts()}), r"experts\.gate_up is a fused 3-D"),
        (nn.Linear(2, 2, device="meta"), "offloaded"),
        (nn.Embedding(3, 3), r"no nn\.Linear"),
    ],
)
def test_what_a_mask_would_miss_is_refused_by_name(model, message):
    with pytest.raises(ValueError, match=message):
        maskable_linears(model)


def test_a_directory_may_begin_with_a_tilde(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny.model.save_pretrained(tmp_path / "model")
    tiny.tokenizer.save_pretrained(tmp_path / "model")
    spec = HubModel(
        name="own", path="~/model", revision=None, dtype="float32", device="cpu", device_map=None, chat_template=None
    )
    assert spec.load().fingerprint == tiny.fingerprint


def test_device_and_dtype():
    assert pick_dtype("float16", torch.device("cpu")) is torch.float16
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"model\.device=nonsense"):
        pick_device("nonsense")
