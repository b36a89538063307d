"""A persona that an earlier run found, as its file says: what it is, and what puts it on a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from persona_prune.masks.applying import dense_model, masked
from persona_prune.masks.mask import Mask
from persona_prune.models.loaded import LoadedModel, maskable_linears
from persona_prune.saved.container import FileManifest
from persona_prune.saved.persona_file import load_persona_mask, read_manifest

FILE_NAME = "persona.safetensors"


@dataclass(frozen=True)
class SavedPersona:
    """A persona file, read as far as its manifest: `persona_prune.Persona`.

    What the file doesn't say is taken from the configuration of the run in whose directory it lies, and is empty
    where that is gone, too.

    Attributes:
        path: the file.
        name: the persona's name.
        description: one sentence.
        opposite: name of the contrasting persona.
        method: what made the mask.
        sparsity: what share of the weights the method was asked to drop; None for methods without one.
        gamma: what the run multiplied dropped weights with, in [0, 1).
        model: name of the model it is for, as in ``model=<name>``.
        model_fingerprint: identifies the weights it is for (`models.fingerprint`).
        manifest: all that the file says of itself.
    """

    path: Path
    name: str
    description: str
    opposite: str | None
    method: str
    sparsity: float | None
    gamma: float
    model: str | None
    model_fingerprint: str
    manifest: FileManifest

    @classmethod
    def load(cls, path: str | Path) -> "SavedPersona":
        """Read a persona file, or the one in a run directory; no tensors yet.

        Raises:
            OSError: there is none.
            ValueError: it is no persona file that this version reads.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            path = path / FILE_NAME
        manifest = read_manifest(path)
        try:
            return cls._from_manifest(path, manifest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is not a readable persona file: its manifest is damaged ({error!r})") from None

    @classmethod
    def _from_manifest(cls, path: Path, manifest: FileManifest) -> "SavedPersona":
        about: Mapping[str, Any] = manifest["description"]
        persona = _configured(path).get("persona", {})
        sparsity, opposite, model = (about.get("sparsity"), persona.get("opposite"), about.get("model"))
        gamma = float(about.get("gamma", 0.0))
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma {gamma}")
        return cls(
            path=path,
            name=str(about.get("persona") or persona.get("name") or path.stem),
            description=str(about.get("persona_description") or persona.get("description") or ""),
            opposite=str(about.get("opposite") or opposite) if about.get("opposite") or opposite else None,
            method=str(about.get("method", "")),
            sparsity=None if sparsity is None else float(sparsity),
            gamma=gamma,
            model=None if model is None else str(model),
            model_fingerprint=str(manifest["model_fingerprint"]),
            manifest=manifest,
        )

    def mask(self, linears: Mapping[str, nn.Linear]) -> Mask:
        """Return the mask for the dense ``linears`` (`models.maskable_linears`).

        Raises:
            OSError, ValueError: the file is gone, damaged, or for other Linears.
        """
        return load_persona_mask(self.path, linears)

    @contextmanager
    def applied(self, model: LoadedModel | Any, *, gamma: float | None = None) -> Iterator[Any]:
        """Make ``model`` this persona while the body runs, and yield it; afterwards it is dense again, bit for bit.

        Args:
            model: a loaded model, or a bare transformers model, dense.
            gamma: what dropped weights are multiplied with, in [0, 1); None for what the persona's own run used.

        Raises:
            OSError: the file is gone.
            ValueError: it is damaged or for another model, or ``gamma`` is out of range; nothing is changed then.
        """
        bare, fingerprint = dense_model(model)
        factor = self.gamma if gamma is None else gamma
        with masked(bare, self.mask(maskable_linears(bare)), model_fingerprint=fingerprint, gamma=factor):
            yield model


def _configured(path: Path) -> Mapping[str, Any]:
    """Return the configuration of the run beside the file; empty if there is none that can be read."""
    try:
        config = yaml.safe_load((path.absolute().parent / ".hydra" / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}
