"""The house: data flows one way, and only certain files may touch certain libraries."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "persona_prune"
ORDER = [
    ["validation", "devices", "sweep_settings", "workers", "text_files", "interrupts"],
    ["personas", "data"],
    ["hub_formats", "knowledge"],
    ["hub"],
    ["pair_quality"],
    ["check_pairs"],
    ["models"],
    ["likelihood", "generation"],
    ["signatures", "neutral"],
    ["contrast"],
    ["persona_files", "mask_coding", "ranking"],
    ["masks"],
    ["apply"],
    ["gradients"],
    ["methods", "baselines"],
    ["saved_persona", "switching"],
    ["evaluators"],
    ["statistics"],
    ["doubts"],
    ["tracking", "verdict"],
    ["sync"],
    ["config"],
    ["run_directory", "command_line", "tasks"],
    ["report"],
    ["analysis"],
    ["loading", "key_values"],
    ["model_card"],
    ["export", "chatting"],
    ["chat"],
    ["analyse"],
    ["budget"],
    ["gradient_building"],
    ["built"],
    ["mask_building"],
    ["experiment"],
    ["sweep", "preview"],
    ["run"],
    ["serving"],
    ["serve"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_downstream_is_imported(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "persona_prune" and len(parts) > 1:
            assert LEVEL[parts[1]] <= LEVEL[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_where_they_belong(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    allowed = {
        "hydra": {"config", "command_line", "experiment", "run"},
        "omegaconf": {"config", "command_line", "experiment", "run"},
        "wandb": {"tracking"},
        "lm_eval": {"evaluators"},
    }
    for name in imported(path):
        library = name.split(".")[0]
        assert own in allowed.get(library, {own}), f"{own} imports {library}"


def test_only_models_loads_pretrained():
    users = {path.stem for path in FILES if ".from_pretrained(" in path.read_text()}
    assert users == {"models"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_fits_one_reading(path):
    assert len(path.read_text().splitlines()) <= 300
