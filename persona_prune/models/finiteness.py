"""Where a model stops giving numbers: overflow in its dtype, or damaged weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.loaded import LoadedModel

_LONGEST = 512  # tokens of a text that are read


def not_finite(loaded: LoadedModel, prompts: Sequence[str]) -> str | None:
    """Return in words which module of the model, as it stands, first gives what is no number; None if none does.

    Args:
        loaded: the model.
        prompts: what is asked, one forward pass each, until something is found.
    """
    for prompt in prompts:
        text = chat_prompt(loaded.tokenizer, prompt, loaded.before(prompt))
        ids = loaded.tokenizer(text, add_special_tokens=False, verbose=False).input_ids[:_LONGEST]
        module = _first(loaded.model, torch.tensor([ids], device=loaded.model.device))
        if module is not None:
            return module
    return None


@torch.inference_mode()
def _first(model: Any, ids: Tensor) -> str | None:
    if model(input_ids=ids, use_cache=False).logits.isfinite().all():
        return None
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not output.isfinite().all():
                found.append(f"{name} {_of(module)}in {_dtype(output)}")

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not [*module.children()]]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else f"the model in {_dtype(model)}"


def _of(module: nn.Module) -> str:
    damaged = [name for name, parameter in module.named_parameters() if not parameter.isfinite().all()]
    return f"(its {damaged[0]} is no number) " if damaged else ""


def _dtype(of: Any) -> str:
    return str(of.dtype).removeprefix("torch.")
