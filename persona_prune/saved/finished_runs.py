"""Finding finished runs below directories and reading what they left behind."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from persona_prune.common.errors import one_line
from persona_prune.common.json_numbers import load_figures, load_item

_INSIDE = re.compile(
    r"\..*|samples|wandb|previous-\d+"
)  # what begins with a dot is about to be deleted, or a run's own
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where it was built, is much faster
_READERS: Mapping[str, Callable[[str], object]] = {
    "metrics.json": load_figures,
    "status.json": json.loads,
    ".hydra/config.yaml": lambda text: yaml.load(text, _LOADER),
}


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, ``.hydra/config.yaml`` and ``metrics.json``."""

    path: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, float]

    @property
    def persona(self) -> str:
        """Name of the persona, marked where its pairs are turned round; of a mix without a name, its parts."""
        node = self.config["persona"]
        name, weights = str(node["name"]), node.get("weights")
        if name == "mix" and isinstance(weights, Mapping):
            name = f"mix of {', '.join(sorted(map(str, weights)))}"
        return f"{name}-flipped" if node.get("flip") else name

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.config["method"]["name"])

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.config["model"]["name"])


@dataclass(frozen=True)
class Found:
    """Finished runs, and the directories of the others with the line that says why they are left out."""

    runs: Sequence[Run]
    left_out: Sequence[tuple[Path, str]]


def find_runs(directories: Sequence[Path]) -> Found:
    """Read all runs below ``directories``, in order of their paths; what a repeated run moved aside is not looked at.

    Raises:
        ValueError: one of the directories holds no run at all, or none of the runs is finished and readable.
        OSError: there is no such directory.
    """
    paths: dict[Path, None] = {}
    for directory in directories:
        if not directory.is_dir():
            raise NotADirectoryError(f"{directory}: no such directory; give directories that hold runs")
        below = list(_run_directories(directory.resolve()))
        if not below:
            raise ValueError(f"{directory}: no run in it or below it (a run leaves metrics.json and status.json)")
        paths |= dict.fromkeys(below)
    runs, left_out = [], []
    for path in paths:
        try:
            runs.append(read_run(path))
        except (ValueError, OSError) as error:
            left_out.append((path, one_line(error)))
    if not runs:
        path, reason = left_out[0]
        raise ValueError(f"none of {len(left_out)} runs is finished and readable; the first, {path}: {reason}")
    return Found(runs, left_out)


def samples(run: Run, evaluator: str) -> Iterator[dict[str, Any]]:
    """Yield the items of ``samples/<evaluator>.jsonl``; nothing if there is no such file.

    Raises:
        ValueError: a line is no item.
    """
    path = run.path / "samples" / f"{evaluator}.jsonl"
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                sample = load_item(line)
                if not isinstance(sample["values"], dict):
                    raise TypeError
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"samples/{path.name}: line {number} is no item") from None
            yield sample


def _run_directories(root: Path) -> Iterator[Path]:
    for path, below, files in os.walk(root):
        below[:] = sorted((name for name in below if not _INSIDE.fullmatch(name)), key=_natural)
        if "status.json" in files or "metrics.json" in files:
            yield Path(path)


def _natural(name: str) -> list[tuple[float, str]]:
    """Return a key that sorts numbers inside names by value: 0.05 before 0.1 before 10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(float(part), "") if i % 2 else (-1.0, part) for i, part in enumerate(parts)]


def read_run(path: Path) -> Run:
    """Read one run directory.

    Raises:
        ValueError: the run failed, is not finished, or a file of it is damaged or missing.
        OSError: a file can't be read.
    """
    status = _mapping(path, "status.json")
    if status.get("status") == "failed":
        raise ValueError(f"failed: {status.get('error')}")
    if status.get("status") != "done":
        raise ValueError("not finished: it is still running, or was cut off")
    metrics = _mapping(path, "metrics.json")
    for key, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"metrics.json: {key} is {value!r}, not a number")
    config = _mapping(path, ".hydra/config.yaml")
    for group in ("model", "persona", "method"):
        if not isinstance(config.get(group), dict) or not isinstance(config[group].get("name"), str):
            raise ValueError(f".hydra/config.yaml: {group} has no name")
    if not isinstance(config.get("evaluator"), dict):
        raise ValueError(".hydra/config.yaml: names no evaluator")
    return Run(path, config, metrics)


def _mapping(path: Path, name: str) -> dict[str, Any]:
    """Read a file of a run that holds a mapping."""
    try:
        text = (path / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"no {name}") from None
    try:
        content = _READERS[name](text)
    except (ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{name} is damaged")
    return content
