"""Packed rows, shared prefixes and windows, for every causal-LM type of the installed transformers.

Where it came from: transformers 46859, 29777 and 8886, masks and positions that layers don't honour.
"""

import pytest

from persona_prune.models.packing import packing
from tests.models.every_architecture import verdict
from tests.reference.architectures import SKIPPED, TYPES, WINDOW, tiny

TOLERANCE = 1e-4  # nats, or relative
ILL_CONDITIONED = ("gemma4",)  # rounding of float32 alone moves its gradients by 1e-4: asked in float64
REASONS = {  # every refusal gives one
    "figures": ("lets tokens see those that follow", "gives other figures each time"),
    "masks": ("mixture-of-experts", "Conv1D"),
    "statistics": ("no activation reached", "one vector a token"),
}


def check(model):
    found = verdict(model)
    assert {what: error for what, error in found.errors.items() if not error <= TOLERANCE} == {}
    for what, reason in found.refusals.items():
        assert any(words in reason for words in REASONS[what])
    assert found.errors or "figures" in found.refusals
    return found


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in SKIPPED])
def test_a_type_is_right_or_refused(kind):
    model = tiny(kind)
    check(model.double() if kind in ILL_CONDITIONED else model)


def test_there_are_enough_of_them_and_no_name_is_skipped_in_vain():
    assert set(SKIPPED) <= set(TYPES)
    assert len(TYPES) - len(SKIPPED) > 60


ROPE = {"rope_theta": 10000.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, **ROPE}


@pytest.mark.parametrize(
    ("kind", "changes", "layout", "reach"),
    [
        ("bert", {"is_decoder": True}, "shared prefix", 256),
        ("roberta", {"is_decoder": True}, "padded", 256),  # its positions begin after the padding token's number
        ("falcon", {"alibi": True}, "padded", 256),
        ("qwen3_5_text", {}, "padded", 256),
        ("mamba2", {}, "padded", None),
        ("minicpm3", {}, "packed", 256),  # multi-head latent attention
        ("gemma3_text", {}, "shared prefix", WINDOW),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 2, "layer_types": None}, "shared prefix", WINDOW),
        ("qwen2", {"use_sliding_window": False}, "shared prefix", 256),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, **ROPE}}, "shared prefix", 32),
        ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 32}, "shared prefix", 32),
    ],
)
def test_what_a_configuration_changes(kind, changes, layout, reach):
    sizes = {"sliding_window": WINDOW} if kind == "qwen2" else {}
    if kind == "llama":
        sizes = {"max_position_embeddings": 32}
    model = tiny(kind, **sizes, **changes)
    assert (packing(model).found.layout, packing(model).reach) == (layout, reach)
    check(model)
