"""A loaded model: what can be masked in it, and what tells it from another."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

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
    def arithmetic(self) -> str:
        """What results of the same maskable weights still depend on. Part of every cache key.

        That is dtype, device, the versions of torch and transformers, every other parameter (embeddings, norms, biases,
        a sample of each), and how a prompt is put to the model, which may depend on the day.
        """
        device = self.model.device
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        masked = {id(module.weight) for module in self.linears.values()}
        others = [(name, parameter) for name, parameter in self.model.named_parameters() if id(parameter) not in masked]
        message = [{"role": "user", "content": "Who are you?"}]
        text = self.tokenizer.apply_chat_template(message, tokenize=False, enable_thinking=False)
        spoken = self.tokenizer(text, add_special_tokens=False).input_ids
        return (
            f"{self.model.dtype} on {where}, torch {torch.__version__}, transformers {transformers.__version__}, "
            f"with {_digest(others)}, spoken to in {spoken}"
        )


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
    """Return 16 hex digits that identify the weights masks apply to: names, shapes and a sample of the values.

    Values are rounded to bf16 first, so float32 and bf16 copies of one model agree.
    """
    return _digest((name, module.weight) for name, module in maskable_linears(model).items())


def _digest(parameters: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, parameter in parameters:
        digest.update(f"{name}:{tuple(parameter.shape)};".encode())
        values = parameter.detach().flatten()
        # Without the 1 they would be of one column where the number of rows is a multiple of 1024.
        stride = values.numel() // 1024 + 1
        sample = values[::stride].to(torch.bfloat16).float().cpu()
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def _embeddings(model: nn.Module) -> list[Any]:
    if not isinstance(model, transformers.PreTrainedModel):
        return [module for module in model.modules() if isinstance(module, nn.Embedding)]
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    return [module for module in both if isinstance(getattr(module, "weight", None), Tensor)]
