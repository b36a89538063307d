"""Signatures that were computed before."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from persona_prune.calibration.signatures import VERSION, Signature, Statistics
from persona_prune.common.cache import cache_path, kept, store

log = logging.getLogger(__name__)


def cache_file(model_fingerprint: str, data_hash: str, settings: Mapping[str, object]) -> Path:
    """Return where the signatures of these inputs are kept; the name depends on everything that changes them."""
    return cache_path("signatures", [VERSION, model_fingerprint, data_hash, sorted(settings.items())])


def save(path: Path, signatures: Sequence[Signature]) -> None:
    """Keep the signatures of one pass (safetensors), unless one of them is not finite."""
    tensors = {
        f"{pole}/{name}/{field.name}": getattr(statistics, field.name)
        for pole, signature in enumerate(signatures)
        for name, statistics in signature.statistics.items()
        for field in fields(Statistics)
    }
    first = signatures[0]
    manifest = {
        "leader": dict(first.leader),
        "model_fingerprint": first.model_fingerprint,
        "data_hash": first.data_hash,
        "positions": first.positions,
        "tokens": [signature.tokens for signature in signatures],
        "sequences": first.sequences,
    }
    metadata = {"manifest": json.dumps(manifest)}
    store_finite(path, tensors, lambda partial: save_file(tensors, partial, metadata=metadata))


def store_finite(path: Path, tensors: Mapping[str, Tensor], write: Callable[[Path], object]) -> None:
    """Let ``write`` keep ``tensors``, unless they are not finite: an overflow is no result."""
    broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        log.warning("not kept in the cache: the statistics of %s are no numbers", broken)
        return
    store(path, write)


def load(path: Path) -> tuple[Signature, ...] | None:
    """Read what `save` wrote; None if there is no such file or it is damaged (said in the log)."""
    if not kept(path):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            manifest = json.loads(file.metadata()["manifest"])
            leaders = dict.fromkeys(manifest["leader"].values())
            poles = [
                {
                    name: Statistics(*(file.get_tensor(f"{pole}/{name}/{field.name}") for field in fields(Statistics)))
                    for name in leaders
                }
                for pole in range(len(manifest["tokens"]))
            ]
        common = (manifest["leader"], manifest["model_fingerprint"], manifest["data_hash"])
        return tuple(
            Signature(statistics, *common, manifest["positions"], tokens, manifest["sequences"])
            for statistics, tokens in zip(poles, manifest["tokens"], strict=True)
        )
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        log.warning("cached signature %s is damaged (%s): computing it again", path, error)
        return None
