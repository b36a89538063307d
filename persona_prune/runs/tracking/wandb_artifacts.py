"""Files as W&B artifacts, named so that every run that uses or makes the same one points to the same version."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import wandb

from persona_prune.runs.tracking.base import RunInfo
from persona_prune.runs.tracking.wandb_limits import LONGEST_NAME, shortened
from persona_prune.saved.container import stored_manifest

_PERSONA_FORMATS = "persona_prune."
_HASH = re.compile(r"-[0-9a-f]{6}$")
_HEADLINES = ("choice/margin", "choice/accuracy_norm", "capability/perplexity_ratio", "mask/sparsity")


def persona(path: Path, run: RunInfo, metrics: Mapping[str, float]) -> wandb.Artifact:
    """Return a run's persona file: named like the run, but for the hash, so that repeats become versions."""
    figures = {metric: metrics[metric] for metric in _HEADLINES if metric in metrics}
    return _artifact(path, run.name, "persona", {**_manifest(path), "config_hash": run.config_hash, **figures})


def source(path: Path) -> wandb.Artifact:
    """Return a file that a persona was made from: another run's persona file, or else a signature.

    A signature's file name is a digest of everything it depends on, and a run directory's is the run's name: so these
    names are those under which other runs know the same file.
    """
    manifest = _manifest(path)
    if str(manifest.get("format", "")).startswith(_PERSONA_FORMATS):
        return _artifact(path, _HASH.sub("", path.absolute().parent.name), "persona", manifest)
    return _artifact(path, f"signature-{path.stem}", "signature", manifest)


def files(artifact: wandb.Artifact) -> list[str]:
    """Return where the files of an artifact lie until they are uploaded."""
    return [str(entry.local_path) for entry in artifact.manifest.entries.values()]


def _artifact(path: Path, name: str, kind: str, metadata: Mapping[str, Any]) -> wandb.Artifact:
    name = re.sub(r"[^\w.-]", "-", shortened(name, LONGEST_NAME), flags=re.ASCII)
    artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
    # A persona file stays where it is and can be large. A signature is in the cache, which may be emptied before an
    # offline run is pushed: that one is copied.
    policy: Literal["immutable", "mutable"] = "immutable" if kind == "persona" else "mutable"
    artifact.add_file(str(path.absolute()), policy=policy, skip_cache=True)
    return artifact


def _manifest(path: Path) -> dict[str, Any]:
    """Return what a file of ours says of itself, without what is listed by Linear or round."""
    found = stored_manifest(path)
    described = found.pop("description", {})
    plain = {key: value for key, value in found.items() if isinstance(value, (str, int, float))}
    return plain | {key: value for key, value in described.items() if isinstance(value, (str, int, float))}
