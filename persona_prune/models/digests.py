"""Digests of what decides a model's figures: every weight, the configuration, the tokenizer.

Hashes of 128 bits (XXH3) at about the speed of memory: made to tell copies from edits, not to withstand forgery.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
import xxhash
from torch import Tensor

_PIECE = 1 << 18  # values that are rounded at a time on a CPU, so that they are still in its cache when they are hashed
_ELSEWHERE = frozenset({"_name_or_path", "_commit_hash", "transformers_version"})  # of no weight, or in the key already

NamedTensors = Iterable[tuple[str, Tensor]]

_of_tokenizers: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def sampled_digest(tensors: NamedTensors) -> str:
    """Return 16 hex digits of names, shapes and about 1,024 values a tensor, rounded to bf16.

    Version 0.1.0 knew models by it. It is exact to the bit, as it stands in persona files.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(_label(name, tensor))
        values = tensor.detach().flatten()
        # Without the 1 they would be of one column where the number of rows is a multiple of 1024.
        stride = values.numel() // 1024 + 1
        sample = values[::stride].to(torch.bfloat16).float().cpu()
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def rounded_digest(tensors: NamedTensors) -> str:
    """Return 16 hex digits of names, shapes and every value rounded to bf16: equal for float32 and bf16 copies."""
    return _digest(tensors, torch.bfloat16)


def exact_digest(tensors: NamedTensors) -> str:
    """Return 16 hex digits of names, shapes and every bit of every value."""
    return _digest(tensors, None)


def config_digest(model: Any) -> str:
    """Return 16 hex digits of a transformers model's whole configuration and that of its generation."""
    settings = [
        {key: value for key, value in part.to_dict().items() if key not in _ELSEWHERE}
        for part in (model.config, model.generation_config)
        if part is not None
    ]
    text = json.dumps([settings, str(model.config._attn_implementation)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tokenizer_digest(tokenizer: Any) -> str:
    """Return 16 hex digits of what turns text into tokens; the chat template is not part of it."""
    if tokenizer not in _of_tokenizers:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            text = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.init_kwargs], default=str)
        else:
            text = backend.to_str()
            # What comes before are padding and truncation, as the last caller left them.
            text = text[text.index('"added_tokens"') :]
        special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
        _of_tokenizers[tokenizer] = hashlib.sha256((text + special).encode()).hexdigest()[:16]
    return _of_tokenizers[tokenizer]


def _digest(tensors: NamedTensors, dtype: torch.dtype | None) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        hashed = xxhash.xxh3_128()
        for piece in _pieces(tensor.detach().reshape(-1), dtype):
            hashed.update(piece.contiguous().view(torch.uint8).numpy().data)
        digest.update(_label(name, tensor))
        digest.update(hashed.digest())
    return digest.hexdigest()[:16]


def _pieces(values: Tensor, dtype: torch.dtype | None) -> Iterator[Tensor]:
    """Yield values on the CPU, in ``dtype`` where one is given."""
    if dtype is None or values.dtype == dtype:
        yield values.cpu()
    elif values.device.type != "cpu":
        yield values.to(dtype).cpu()
    else:
        for piece in torch.split(values, _PIECE):
            yield piece.to(dtype)


def _label(name: str, tensor: Tensor) -> bytes:
    return f"{name}:{tuple(tensor.shape)};".encode()
