"""The house: one row a wing, lowest first. Data flows one way, and only certain rooms may touch certain libraries."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "persona_prune"
ORDER = [
    {"common"},
    {"personas"},
    {"models"},
    {"masks", "calibration", "evaluators"},
    {"methods"},
    {"saved"},
    {"report"},
    {"runs"},
    {"run", "sync", "analyse", "chat", "check_pairs", "export", "rate", "serve", "tasks"},
]
LIBRARIES = {  # library -> where it may be imported: a wing, or a file of it
    "torch": {"models", "masks", "calibration", "evaluators", "methods", "saved", "report", "runs", *ORDER[-1]},
    "hydra": {"runs", "run", "common/conf_files"},
    "omegaconf": {"runs", "run", "common/conf_files"},
    "wandb": {"runs/tracking", "sync"},
    "lm_eval": {"evaluators", "tasks"},
}
CALLS = {  # what only one room does -> that room
    ".from_pretrained(": "models/sources",
    "open_persona_file(": "saved",
    "safe_open(": "saved",
}
CACHES = {"calibration/signature_cache"}  # opens what this project itself has written, and can make again


def wing(path: str) -> str:
    return path.split("/")[0]


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path: str, source: str) -> list[str]:
    """Return what a file, named as ``wing/file``, does that it may not."""
    level = {name: number for number, names in enumerate(ORDER) for name in names}
    own, found = wing(path), []
    for name in imported(source):
        library, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if library == "persona_prune" and other in level and other != own and level[other] >= level[own]:
            found.append(f"{path} imports {name}")
        if not any(path == room or path.startswith(f"{room}/") for room in LIBRARIES.get(library, {own})):
            found.append(f"{path} imports {library}")
    found += [
        f"{path} calls {call}"
        for call, room in CALLS.items()
        if call in source and not path.startswith(room) and path not in CACHES
    ]
    return found


FILES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.name != "__init__.py"
}


def test_the_house_is_in_order():
    assert [line for path, source in FILES.items() for line in violations(path, source)] == []


def test_every_room_is_on_the_ladder_and_there_are_no_others():
    rooms = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith(("_", "."))} - {"conf"}
    assert rooms == {name for names in ORDER for name in names}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("common/cache", "from persona_prune.personas import pairs"),
        ("models/rows", "from persona_prune.saved.container import save"),
        ("chat/__main__", "from persona_prune.serve import api"),
        ("evaluators/choice", "from persona_prune.calibration import neutral"),
        ("personas/pairs", "import torch"),
        ("common/cli", "from torch import nn"),
        ("models/by_name", "import hydra"),
        ("report/tables", "from omegaconf import OmegaConf"),
        ("runs/sweep", "import wandb"),
        ("runs/sweep", "import lm_eval.api"),
        ("models/loaded", "model = AutoModel.from_pretrained(path)"),
        ("chat/__main__", "with safe_open(path) as file: pass"),
    ],
)
def test_a_planted_violation_is_found(path, source):
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("code", "library"),
    [
        ("from persona_prune import load_model", "hydra"),
        ("import persona_prune.chat.__main__", "hydra"),
        ("import persona_prune.serve.__main__", "hydra"),
        ("import persona_prune.export.__main__", "hydra"),
        ("import persona_prune.report.__main__", "torch"),
        ("import persona_prune.check_pairs.__main__", "torch"),
        ("import persona_prune.rate.__main__", "torch"),
        ("import persona_prune", "torch"),
    ],
)
def test_what_a_command_does_not_need_is_not_loaded(code, library):
    loaded = f"{code}\nimport sys\nassert {library!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", loaded], check=True, cwd=PACKAGE.parent)


def test_a_file_fits_one_reading():
    assert {path: source.count("\n") for path, source in FILES.items() if source.count("\n") > 400} == {}
