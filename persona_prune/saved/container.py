"""Persona files: safetensors with a manifest and a checksum, written all or nothing, read as untrusted input."""

import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from persona_prune.common.cache import atomic

FileManifest = Mapping[str, Any]
"""What a persona file says of itself: its format, its model, and what made it."""

_LARGEST_HEADER = 1 << 23  # bytes; a model of a thousand Linears needs a fiftieth of it
# Names of modules with a prefix; they are never used as paths, and stand in messages.
_NAME = re.compile(r"[\w-]+([./][\w-]+)*")
_LONGEST_NAME = 512


def save_persona_file(path: Path, tensors: Mapping[str, Tensor], manifest: FileManifest) -> int:
    """Write a persona file, all or nothing, and return its size in bytes.

    The checksum (SHA-256) covers tensors and manifest; it tells damage, not forgery.

    Raises:
        OSError: it can't be written.
        ValueError: it could not be read back.
    """
    signed = {**manifest, "written_by": f"persona_prune {importlib.metadata.version('persona_prune')}"}
    # Inside the manifest: safetensors writes several entries of metadata in an order that changes from save to save.
    signed["checksum"] = _checksum(signed, tensors)
    content = safetensors.torch.save(dict(tensors), {"manifest": json.dumps(signed)})
    with atomic(path) as partial:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with open_persona_file(partial):
            pass
    return len(content)


@contextmanager
def open_persona_file(path: str | Path) -> Iterator[tuple[Any, FileManifest]]:
    """Open a persona file of any format: yield safetensors' reader and the manifest.

    Only the header is read, and checked before anything is allocated for what it claims.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: the file is damaged, is no persona file, or the body found it to be damaged.
    """
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise FileNotFoundError(f"no persona file at {path}")
    try:
        # Opening a pipe would wait for a writer.
        if not path.is_file():
            raise ValueError("it is not a regular file")
        manifest = _manifest(path)
        with safe_open(path, framework="pt") as file:
            yield file, manifest
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable persona file: {_one_line(error)}") from error


def read_tensors(file: Any, *, checksum: bool) -> dict[str, Tensor]:
    """Read all tensors, bytes (uint8), of a file that `open_persona_file` yielded, and check them against its checksum.

    Args:
        file: safetensors' reader.
        checksum: whether there must be one; where there is one, it must be right.

    Raises:
        ValueError: a tensor is of another dtype, or the checksum is missing or wrong.
    """
    manifest = _parsed(file.metadata()["manifest"], "manifest")
    if checksum and "checksum" not in manifest:
        raise ValueError("it has no checksum")
    tensors: dict[str, Tensor] = {}
    for name in file.keys():  # noqa: SIM118 (safetensors' reader is no mapping)
        stored = file.get_slice(name).get_dtype()
        if stored != "U8":
            raise ValueError(f"{name} is of dtype {stored}, expected U8")
        tensors[name] = file.get_tensor(name)
    if "checksum" in manifest and manifest["checksum"] != _checksum(manifest, tensors):
        raise ValueError("its checksum is wrong: the file was damaged")
    return tensors


def stored_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a file that this project wrote, persona or statistics; empty if it has none.

    Raises:
        SafetensorError, OSError, ValueError: it can't be read.
    """
    with safe_open(path, framework="pt") as file:
        found: dict[str, Any] = json.loads((file.metadata() or {}).get("manifest", "{}"))
    return found


def checked_shape(name: str, shape: object) -> tuple[int, ...]:
    """Return a list of positive integers of a manifest as a tuple; raise ValueError if it is anything else."""
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"the shape of {name} is not a list of positive integers")
    return tuple(shape)


def check_name(name: object) -> None:
    """Raise ValueError if ``name`` can't be the name of a module or tensor."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"{str(name)[:80]!r} is no name of a module or tensor")


def _manifest(path: Path) -> FileManifest:
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
        room = os.fstat(file.fileno()).st_size - 8
        if claimed > min(room, _LARGEST_HEADER):
            raise ValueError("its header is longer than the file, or too long")
        header = _parsed(file.read(claimed).decode(), "header")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.keys() != {"manifest"}:
        raise ValueError("it has no manifest")
    if not isinstance(metadata["manifest"], str):
        raise ValueError("its manifest is no text")
    for name in header:
        check_name(name)
    manifest = _parsed(metadata["manifest"], "manifest")
    for key, kind in (("format", str), ("model_fingerprint", str), ("description", dict)):
        if not isinstance(manifest.get(key), kind):
            raise ValueError(f"its manifest has no {key}")
    return manifest


def _parsed(text: str, what: str) -> dict[str, Any]:
    """Return a JSON object; raise ValueError or RecursionError if it is none, or says a thing twice."""
    parsed = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_constant)
    if not isinstance(parsed, dict):
        raise ValueError(f"its {what} is no JSON object")
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _constant(name: str) -> float:
    # Beyond an infinite threshold nothing is dropped.
    if name != "Infinity":
        raise ValueError(f"{name} is no value")
    return float("inf")


def _checksum(manifest: FileManifest, tensors: Mapping[str, Tensor]) -> str:
    unsigned = {key: value for key, value in manifest.items() if key != "checksum"}
    digest = hashlib.sha256(json.dumps(unsigned).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _one_line(error: BaseException) -> str:
    """Return what an error says, printable and short: some of it may be the file's own text."""
    if isinstance(error, RecursionError):
        return "its manifest is nested too deeply"
    said = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else str(error)
    return "".join(c if c.isprintable() else " " for c in " ".join(said.split()))[:300]
