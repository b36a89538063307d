"""A tiny random model of every causal-LM type that the installed transformers knows."""

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 199
WINDOW = 24  # tokens; rows of the self-check are shorter

TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

_LAYERS = 4

_SIZES = {  # setting -> its size in a tiny model; the order of what follows doesn't matter
    "vocab_size": VOCABULARY,
    "decoder_vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "unpadded_vocab_size": VOCABULARY,
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "emb_dim", "dim_model", "word_embed_proj_dim", "lru_width"), 32
    ),
    **dict.fromkeys(("embedding_size", "embedding_dim", "input_embedding_size", "output_embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "dff", "dim_ff", "d_inner", "n_inner", "ffn_hidden_size"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("dense_intermediate_size", "shared_intermediate_size", "shared_experts_intermediate_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), _LAYERS),
    **dict.fromkeys(("num_decoder_layers", "encoder_layers", "num_encoder_layers", "depth", "num_blocks"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "linear_num_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "kv_n_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("head_dim", "dim_head", "d_head", "attention_head_size", "swa_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "rotary_dim", "kv_channels"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k"), 2),
    **dict.fromkeys(("mamba_chunk_size",), 16),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "n_shared_experts"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 256),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size"), WINDOW),
    **dict.fromkeys(("attention_window_size", "local_attention", "keep_window_size"), WINDOW),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0),
}


SKIPPED = {  # type -> why no tiny model of it can be asked
    "blt": "reads bytes through three models whose sizes depend on each other",
    "dbrx": "its own default configuration can't be built in this version of transformers",
    "dots3_note": "wants sizes that agree across its audio, vision and text parts; dots3_note_text is tested",
    "gemma3n": "its vision tower needs another library; gemma3n_text is tested",
    "gemma4_assistant": "drafts from the hidden states of another model",
    "gemma4_unified_assistant": "drafts from the hidden states of another model",
    "musicgen": "writes audio codes from several codebooks",
    "musicgen_melody": "writes audio codes from several codebooks",
}


def tiny(kind: str, **changes: Any) -> Any:
    """Return a model of a type, seeded, in float32 and evaluation mode."""
    config = tiny_config(kind, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not name.endswith("A_log"):
                # As large as trained ones: with the usual 0.02, what a token sees would hardly matter.
                parameter.data.normal_(std=parameter[0].numel() ** -0.5)
    return model.requires_grad_(False)


def tiny_config(kind: str, **changes: Any) -> Any:
    """Return the configuration of a tiny model, every kind of layer in it."""
    config_class = CONFIG_MAPPING[kind]
    return config_class(**_shrunk(config_class, kind) | changes)


def _shrunk(config_class: Any, kind: str) -> dict[str, Any]:
    default = vars(config_class())
    settings = {key: size for key, size in _SIZES.items() if type(default.get(key)) is int}
    layers = {default[key] for key in settings if _SIZES[key] == _LAYERS}
    if type(default.get("kv_lora_rank")) is int:  # multi-head latent attention has no groups
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    for key, value in default.items():
        if isinstance(value, list) and len(value) in layers:
            # Every value that a layer has by default, in turns.
            values = [v for i, v in enumerate(value) if v not in value[:i]]
            settings[key] = [values[i % len(values)] for i in range(_LAYERS)]
        elif isinstance(value, transformers.PreTrainedConfig):
            settings[key] = type(value)(**_shrunk(type(value), value.model_type)).to_dict()
    return settings | _EXTRA.get(kind, {})


_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

_EXTRA: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {
        "sliding_window": 24,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "index_topk": 4,
        "o_groups": 2,
        "o_lora_rank": 8,
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note_text": {"per_layer_config": None, "head_dim": 16, "index_topk": 8},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "intermediate_size": [48] * 4,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
    },
    "gemma4_text": {"per_layer_config": None, "hidden_size_per_layer_input": 8},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["mamba", "attention"] * 2},
    "hrm_text": {"num_layers_per_stack": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"chunk_size": 16, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "nemotron_h": {"chunk_size": 16, "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1},
    "qwen4_exp_text": {
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
    },
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16]},
    "roc_bert": {"shape_vocab_size": 50, "pronunciation_vocab_size": 50, "shape_embed_dim": 8},
    "zamba2": {"chunk_size": 16},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 8},
}
"""What a type needs beside the sizes."""
