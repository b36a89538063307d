"""The persona of an earlier run, whatever its file holds: bits, or a recipe."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic.dataclasses import dataclass
from torch import nn

from persona_prune.masks import FORMATS, FileManifest, Mask, load_mask, open_persona_file
from persona_prune.methods import recipe, signature_recipe
from persona_prune.personas import prompt_hashes
from persona_prune.validation import STRICT, Fraction, Name

log = logging.getLogger(__name__)

_RECIPES: Mapping[str, Callable[[Path, FileManifest], recipe.Recipe | signature_recipe.SignatureRecipe]] = {
    recipe.FORMAT: recipe.load_recipe,
    signature_recipe.FORMAT: signature_recipe.load_recipe,
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SavedMask:
    """Apply the mask that an earlier run saved (``method=saved method.path=FILE``).

    Attributes:
        name: the method's name.
        path: the persona file.
        gamma: what dropped weights are multiplied with; null for what the file says.
    """

    name: Name
    path: str
    gamma: Fraction | None

    def check(self) -> None:
        """Raise OSError or ValueError if there is no persona file, or one of an unknown format."""
        read_manifest(self.path)

    def check_unseen(self, prompts: set[str]) -> None:
        """Raise ValueError if the mask was calibrated on any of these (normalised) prompts; old files don't say."""
        leaked = prompt_hashes(prompts) & calibrated_on(read_manifest(self.path)["description"])
        if leaked:
            raise ValueError(
                f"{len(leaked)} of {len(prompts)} evaluated prompts are among those that {self.path} was calibrated "
                "on: ask others, such as evaluator.choice.split=test for a mask of calibration.split=calibration"
            )

    @property
    def digest(self) -> str:
        """16 hex digits that identify what the file holds."""
        return hashlib.sha256(Path(self.path).expanduser().read_bytes()).hexdigest()[:16]

    def load(self, linears: Mapping[str, nn.Linear]) -> Mask:
        """Return the mask, rebuilt from the dense ``linears`` if the file holds a recipe; it says its gamma."""
        mask = load_persona_mask(self.path, linears)
        gamma = mask.description.get("gamma", 0.0) if self.gamma is None else self.gamma
        return replace(mask, description={**mask.description, "gamma": gamma})


def calibrated_on(description: Mapping[str, object]) -> set[str]:
    """Return the hashes (`personas.prompt_hashes`) of the prompts that a mask's description says it was made from."""
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
    if recipe.mask_digest(mask) != manifest.get("mask_digest"):
        log.warning(
            "%s: the rebuilt mask is not bit for bit the one that was evaluated (another dtype or platform)", path
        )
    return mask
