"""Masks that contrastive Taylor built before: sweeps, controls and runs of opposite personas ask for the same again."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from persona_prune.common.cache import cache_path, kept, store
from persona_prune.methods.contrastive_taylor import VERSION, ContrastiveTaylor
from persona_prune.methods.taylor_rounds import GradientMask
from persona_prune.models.loaded import LoadedModel
from persona_prune.personas.pairs import Pair, content_hash
from persona_prune.saved.container import stored_manifest
from persona_prune.saved.low_rank_file import FORMAT, load_recipe
from persona_prune.saved.mask_file import load_mask
from persona_prune.saved.persona_file import read_manifest, save_persona

log = logging.getLogger(__name__)


def cached_mask(
    path: Path, linears: Mapping[str, nn.Linear], label: str, build: Callable[[], GradientMask]
) -> GradientMask:
    """Return the mask that is kept at ``path`` (`mask_path`), or else build it and keep it there."""
    try:
        kept = _load(path, linears)
    except (OSError, ValueError) as error:
        log.warning("cached mask is damaged (%s): building it again", error)
        kept = None
    if kept is not None:
        log.info("%s: mask from the cache", label)
        return kept
    built = build()
    store(path, lambda partial: save_persona(partial, built.mask, built.recipe))
    return built


def mask_path(
    method: ContrastiveTaylor,
    loaded: LoadedModel,
    neutral_digest: str,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    max_tokens: int,
) -> Path:
    """Return where the mask of these inputs is kept; the name depends on everything that changes it."""
    settings = {key: value for key, value in asdict(method).items() if key != "name"}
    model = [loaded.fingerprint, loaded.arithmetic, loaded.tokenizer.chat_template]
    version = [VERSION, FORMAT] if method.rank else VERSION
    shape = [batch_size, max_tokens]
    return cache_path("masks", [version, model, neutral_digest, content_hash(pairs), settings, shape])


def _load(path: Path, linears: Mapping[str, nn.Linear]) -> GradientMask | None:
    if not kept(path):
        return None
    manifest = read_manifest(path)
    if manifest["format"] != FORMAT:
        return GradientMask(load_mask(path), None)
    recipe = load_recipe(path, manifest)
    return GradientMask(recipe.mask(linears), recipe)


def data_hashes(directory: Path) -> set[str]:
    """Return the hashes of the pairs that the files of a cache directory were made from."""
    found = set()
    for path in directory.glob("*.safetensors"):
        try:
            manifest = stored_manifest(path)
        except (SafetensorError, OSError, ValueError):
            continue  # building it again will say so
        found |= {str(node["data_hash"]) for node in (manifest, manifest.get("description", {})) if "data_hash" in node}
    return found
