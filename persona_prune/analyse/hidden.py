"""Hidden states of a model as it stands, and how alike those of two models are, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.loaded import LoadedModel


@dataclass(frozen=True)
class Similarity:
    """Cosine similarity by decoder layer, in [-1, 1] (Table 3 of the paper).

    Attributes:
        mean: over all tokens of a prompt, chat template included, then over prompts.
        last: of the last token, from which the answer's first is predicted, over prompts.
    """

    mean: list[float]
    last: list[float]


@torch.inference_mode()
def hidden_states(loaded: LoadedModel, prompts: Sequence[str]) -> list[Tensor]:
    """Return, prompt by prompt, what every decoder layer gives out: ``[layers, tokens, hidden_size]`` on the CPU.

    Prompts are rendered by the chat template, ready for the answer. The last layer's output is taken after the final
    norm, as transformers gives it. The embeddings, which no mask touches, are left out.
    """
    states = []
    for prompt in prompts:
        text = chat_prompt(loaded.tokenizer, prompt, loaded.before(prompt))
        ids = loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(loaded.model.device)
        output = loaded.model(input_ids=ids, output_hidden_states=True, use_cache=False, logits_to_keep=1)
        states.append(torch.stack([layer[0].cpu() for layer in output.hidden_states[1:]]))
    return states


def similarity(first: Sequence[Tensor], second: Sequence[Tensor]) -> Similarity:
    """Return how alike the hidden states of two models are on the same prompts.

    Args:
        first: prompt by prompt ``[layers, tokens, hidden_size]``.
        second: the other model's, of the same shapes.

    Raises:
        ValueError: a hidden state is not finite, as that of a wrecked model.
    """
    means, lasts = [], []
    for one, other in zip(first, second, strict=True):
        cosine = functional.cosine_similarity(one.float(), other.float(), dim=-1)
        if not cosine.isfinite().all():
            raise ValueError("hidden states are not finite: the mask wrecks the model")
        means.append(cosine.mean(1))
        lasts.append(cosine[:, -1])
    return Similarity(torch.stack(means).mean(0).tolist(), torch.stack(lasts).mean(0).tolist())
