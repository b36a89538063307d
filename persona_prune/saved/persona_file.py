"""Persona files of any format: what they say of themselves, and the mask in them."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from persona_prune.masks.mask import Mask, mask_digest
from persona_prune.methods.low_rank_recipe import Recipe
from persona_prune.methods.signature_recipe import SignatureRecipe
from persona_prune.saved import low_rank_file, signature_file
from persona_prune.saved.container import FileManifest, open_persona_file
from persona_prune.saved.mask_file import FORMATS, load_mask, save_mask

log = logging.getLogger(__name__)


_RECIPES: Mapping[str, Callable[[Path, FileManifest], Recipe | SignatureRecipe]] = {
    low_rank_file.FORMAT: low_rank_file.load_recipe,
    signature_file.FORMAT: signature_file.load_recipe,
}


def save_persona(path: Path, mask: Mask, recipe: Recipe | SignatureRecipe | None) -> int:
    """Write a persona file (all or nothing) and return its size in bytes.

    A mask is stored as what it is made from, unless the mask itself takes less.

    Args:
        path: where to.
        mask: the persona.
        recipe: what the mask can be rebuilt from, if anything.

    Raises:
        OSError: it can't be written.
    """
    if isinstance(recipe, Recipe) and low_rank_file.size(recipe) < mask.entropy:
        return low_rank_file.save_recipe(recipe, path, mask)
    if isinstance(recipe, SignatureRecipe) and signature_file.size(recipe) < mask.entropy:
        return signature_file.save_recipe(recipe, path, mask)
    return save_mask(mask, path)


def calibrated_on(description: Mapping[str, object]) -> set[str]:
    """Return the hashes of the prompts that a mask's description says it was made from.

    They are `prompt_hashes`, in files of earlier versions `earlier_prompt_hashes`.
    """
    hashes = description.get("calibrated_on")
    return set(map(str, hashes)) if isinstance(hashes, list) else set()


def read_manifest(path: str | Path) -> FileManifest:
    """Return what a persona file says of itself.

    Raises:
        OSError: there is no such file.
        ValueError: it is no persona file that this version reads.
    """
    with open_persona_file(path) as (_, manifest):
        if manifest["format"] not in (*FORMATS, *_RECIPES):
            known = ", ".join((*FORMATS, *_RECIPES))
            raise ValueError(f"format {manifest['format']!r}, this version reads {known}")
        return manifest


def load_persona_mask(path: str | Path, linears: Mapping[str, nn.Linear]) -> Mask:
    """Return the mask in a persona file.

    A recipe's mask that is not bit for bit the one that was saved is a warning, not an error: damage is told by the
    checksum, so that what is left is another dtype or platform, whose rounding moves weights at the threshold.

    Raises:
        OSError, ValueError: as `read_manifest`; or the file is damaged, or a recipe for other Linears.
    """
    manifest = read_manifest(path)
    if manifest["format"] in FORMATS:
        return load_mask(path)
    mask = _RECIPES[manifest["format"]](Path(path).expanduser(), manifest).mask(linears)
    if mask_digest(mask) != manifest.get("mask_digest"):
        log.warning(
            "%s: the rebuilt mask is not bit for bit the one that was evaluated (another dtype or platform)", path
        )
    return mask
