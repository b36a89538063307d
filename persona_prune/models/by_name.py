"""A model by one name, as notebooks and commands other than ``run`` ask for it."""

import dataclasses
import pkgutil
import re
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from persona_prune.common.conf_files import config_directory
from persona_prune.common.validation import neighbours
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.sources import ModelSpec


def load_model(name: str, *, dtype: str | None = None, device: str | None = None) -> LoadedModel:
    """Load a model.

    Args:
        name: as in ``model=<name>`` (a YAML in ``conf/model``), a directory, or an id on the Hugging Face hub.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto``; None for what the YAML says.
        device: such as ``cpu`` or ``cuda:1``; None for what the YAML says.

    Raises:
        OSError: there is no such model.
        ValueError: it has no chat template, or ``dtype`` or ``device`` is none.
    """
    return model_spec(name, dtype=dtype, device=device).load()


def model_spec(name: str, *, dtype: str | None = None, device: str | None = None) -> ModelSpec:
    """Return what loads a model (`load_model`); it costs nothing until it does."""
    directory = config_directory() / "model"
    known = {file.stem for file in directory.glob("*.yaml") if not file.stem.startswith("_")}
    if name in known:
        node = _node(directory / f"{name}.yaml")
    elif Path(name).expanduser().is_dir() or "/" in name:
        own = Path(name).expanduser()
        path = str(own) if own.is_dir() else name
        node = _node(directory / "_hub.yaml") | {"name": _as_name(path), "path": path}
    else:
        raise FileNotFoundError(f"model={name}: no such model, nor a directory; {neighbours(name, known)}")
    spec: ModelSpec = pkgutil.resolve_name(node.pop("_target_"))(**node)
    return changed(spec, dtype, device)


def changed(spec: ModelSpec, dtype: str | None, device: str | None) -> ModelSpec:
    """Return ``spec`` with another dtype or device where given; raise ValueError if it can't be."""
    chosen = {key: value for key, value in (("dtype", dtype), ("device", device)) if value is not None}
    if not chosen:
        return spec  # of whatever class
    try:
        changed: ModelSpec = dataclasses.replace(cast(Any, spec), **chosen)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"model.{where}={first['input']}: {first['msg']}") from None
    return changed


def _node(file: Path) -> dict[str, Any]:
    """Return the YAML of a model, with what it inherits (``defaults: [_hub, _self_]``)."""
    own: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    parents = [parent for parent in own.pop("defaults", []) if parent != "_self_"]
    node: dict[str, Any] = {}
    for parent in parents:
        node |= _node(file.with_name(f"{parent}.yaml"))
    return node | own


def _as_name(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", Path(path).resolve().name).lstrip("_.+-") or "model"
