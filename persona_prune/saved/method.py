"""The persona of an earlier run as a method: ``method=saved method.path=FILE``."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import nn

from persona_prune.common.validation import STRICT, Fraction, Name
from persona_prune.masks.mask import Mask
from persona_prune.personas.pairs import earlier_prompt_hashes, prompt_hashes
from persona_prune.saved.persona_file import calibrated_on, load_persona_mask, read_manifest


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SavedMask:
    """Apply the mask that an earlier run saved (``method=saved method.path=FILE``).

    Attributes:
        name: the method's name.
        path: the persona file.
        gamma: what dropped weights are multiplied with; null for what the file says.
    """

    uses_pairs: ClassVar[bool] = False
    uses_validation: ClassVar[bool] = False
    is_control: ClassVar[bool] = False

    name: Name
    path: str
    gamma: Fraction | None

    def check(self) -> None:
        """Raise OSError or ValueError if there is no persona file, or one of an unknown format."""
        read_manifest(self.path)

    def check_unseen(self, prompts: set[str]) -> None:
        """Raise ValueError if the mask was calibrated on any of these (normalised) prompts; old files don't say."""
        seen = calibrated_on(read_manifest(self.path)["description"])
        # Hashes of either kind differ in length, so that none is taken for one of the other.
        leaked = [prompt for prompt in prompts if (prompt_hashes([prompt]) | earlier_prompt_hashes([prompt])) & seen]
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
