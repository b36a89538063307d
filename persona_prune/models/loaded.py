"""A loaded model: what can be masked in it, and what tells it from another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.digests import (
    config_digest,
    exact_digest,
    rounded_digest,
    sampled_digest,
    tokenizer_digest,
)

_SAMPLED = 16  # hex digits of a sample of the weights, by which version 0.1.0 knew a model

_exact: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

Message = Mapping[str, str]
"""One chat message: ``role`` and ``content``."""


def no_context(_: str) -> Sequence[Message]:
    """Return the messages that stand before a prompt by default: none."""
    return ()


@plain_dataclass(frozen=True)
class LoadedModel:
    """A causal language model in evaluation mode, and how it is spoken to.

    Attributes:
        name: as in ``model=<name>``.
        model: the transformers model.
        tokenizer: its tokenizer, chat template set.
        fingerprint: identifies the dense weights (`fingerprint`).
        before: prompt -> the chat messages that stand before it: none, unless a baseline speaks through the prompt.
    """

    name: str
    model: Any
    tokenizer: Any
    fingerprint: str
    before: Callable[[str], Sequence[Message]] = no_context

    @property
    def linears(self) -> dict[str, nn.Linear]:
        """What a mask may touch: see `maskable_linears`."""
        return maskable_linears(self.model)

    @property
    def pad_id(self) -> int:
        """The token that fills rows up to the same length."""
        return int(self.tokenizer.pad_token_id)

    @property
    def is_dense(self) -> bool:
        """Whether the weights are those it was loaded with, as far as a sample tells: no mask is on it."""
        return _sampled(self.linears) == self.fingerprint[:_SAMPLED]

    @property
    def arithmetic(self) -> str:
        """What results still depend on beside the fingerprint. Part of every cache key.

        That is dtype, device, the versions of torch and transformers, the whole configuration, the tokenizer, every bit
        of every weight and buffer, and how a prompt is put to the model, which may depend on the day. The weights are
        read once, and remembered.

        Raises:
            ValueError: the weights were not read yet, and aren't those it was loaded with: a mask is on it.
        """
        device = self.model.device
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        spoken = self.tokenizer(chat_prompt(self.tokenizer, "Who are you?"), add_special_tokens=False).input_ids
        return (
            f"{self.model.dtype} on {where}, torch {torch.__version__}, transformers {transformers.__version__}, "
            f"with {self._weights()}, configured as {config_digest(self.model)}, "
            f"spoken to by {tokenizer_digest(self.tokenizer)} in {spoken}"
        )

    def _weights(self) -> str:
        """Return a digest of every weight and buffer as it was loaded, beyond what the fingerprint tells."""
        if self.model not in _exact:
            if not self.is_dense:
                raise ValueError(f"model {self.name} is not dense: take the mask off that is on it")
            # Of these the fingerprint has every bit.
            known = {id(module.weight) for module in self.linears.values() if module.weight.dtype == torch.bfloat16}
            named = [*self.model.named_parameters(), *self.model.named_buffers()]
            _exact[self.model] = exact_digest((name, tensor) for name, tensor in named if id(tensor) not in known)
        return _exact[self.model]


def maskable_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the ``nn.Linear`` modules whose weights a mask may touch, by name, in module order.

    The LM head and whatever shares its weight with the embeddings are left out, by identity.

    Raises:
        ValueError: the model holds weights that masks would silently miss: transposed Conv1D, fused 3-D expert
            parameters, quantised or meta (offloaded) weights; or nothing maskable at all.
    """
    excluded = {id(module.weight) for module in _embeddings(model)}
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if isinstance(module, Conv1D):
            raise ValueError(f"{name} is a transposed Conv1D, which masks do not support")
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 3 and not isinstance(module, nn.Conv1d):
                raise ValueError(f"{name}.{key} is a fused 3-D expert parameter: mixture-of-experts is not supported")
        if not isinstance(module, nn.Linear) or id(module.weight) in excluded:
            continue
        if module.weight.is_meta:
            raise ValueError(f"{name} is offloaded (meta tensor): masks need the weights on a device")
        if not module.weight.is_floating_point() or module.weight.element_size() < 2:  # FP8 codes are floating point
            raise ValueError(f"{name} is quantised ({module.weight.dtype}): load the model in floating point")
        excluded.add(id(module.weight))
        found[name] = module
    if not found:
        raise ValueError(f"{type(model).__name__} has no nn.Linear that could be masked")
    return found


def fingerprint(model: nn.Module) -> str:
    """Return 32 hex digits that identify the weights masks apply to: names, shapes, and every value rounded to bf16.

    As values are rounded, float32 and bf16 copies of one model agree. The first half is of a sample of the values: all
    that files of version 0.1.0 know of a model (`same_weights`).
    """
    linears = maskable_linears(model)
    return _sampled(linears) + rounded_digest((name, module.weight) for name, module in linears.items())


def same_weights(one: str, other: str) -> bool:
    """Tell whether two fingerprints are of one model, as far as both know it: version 0.1.0 wrote the first half."""
    if _SAMPLED in (len(one), len(other)):
        return one[:_SAMPLED] == other[:_SAMPLED]
    return one == other


def _sampled(linears: Mapping[str, nn.Linear]) -> str:
    return sampled_digest((name, module.weight) for name, module in linears.items())


def _embeddings(model: nn.Module) -> list[Any]:
    if not isinstance(model, transformers.PreTrainedModel):
        return [module for module in model.modules() if isinstance(module, nn.Embedding)]
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    return [module for module in both if isinstance(getattr(module, "weight", None), Tensor)]
