"""The tables of the experiments, from run directories written by hand."""

import json

import pytest
import yaml

from experiments.method_comparison import table as comparison
from experiments.personas import table as personas


def write_run(directory, method, margins, *, sparsity=None, **metrics):
    """Write what a run leaves behind, with the given margin of every item."""
    (directory / ".hydra").mkdir(parents=True)
    (directory / "samples").mkdir()
    config = {"method": {"name": method}, "persona": {"name": "pirate", "flip": False}}
    if sparsity is not None:
        config["method"]["sparsity"] = sparsity
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    figures = {f"choice/{name}": 0.5 for name in ("accuracy", "accuracy_norm", "margin")}
    figures |= {f"{name}_{end}": 0.5 for name in list(figures) for end in ("low", "high")}
    figures |= {f"dense/{name}": value for name, value in figures.items()} | {"mask/bytes": 1e6} | metrics
    (directory / "metrics.json").write_text(json.dumps(figures))
    rows = [{"id": place, "values": {"margin": margin}} for place, margin in enumerate(margins)]
    (directory / "samples" / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def group(tmp_path):
    write_run(tmp_path / "g" / "a", "wanda", [1.0, 2.0, 3.0], sparsity=0.2)
    write_run(tmp_path / "g" / "b", "random", [0.5, 0.5, 0.5], sparsity=0.2)
    write_run(tmp_path / "g" / "c", "sparse", [1.0, 1.0, 1.0], sparsity=0.4)
    return tmp_path


def test_a_method_is_paired_with_the_random_masks_of_its_own_sparsity(group, capsys):
    comparison.main(group)
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = {line[0].removeprefix("| "): line[comparison.COLUMNS.index("margin - random")] for line in lines}
    assert cells["wanda 0.2"].startswith("+1.50 [")
    assert cells["random 0.2"] == cells["sparse 0.4"] == ""


def test_the_personas_table_counts_only_masks_that_were_compared(tmp_path, capsys):
    write_run(tmp_path / "a", "contrastive_taylor", [1.0], sparsity=0.06, **{"choice/margin_p": 0.02})
    write_run(tmp_path / "b", "contrastive_taylor", [1.0], sparsity=0.06, **{"choice/margin_p": 0.03})
    write_run(tmp_path / "c", "wanda", [1.0], sparsity=0.2, **{"choice/margin_p": 0.001})
    write_run(tmp_path / "d", "contrastive_taylor", [1.0], sparsity=0.06)
    personas.main(tmp_path)
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| pirate")]
    # Holm over two: the smaller p doubles, and the larger is at least that.
    assert [line[personas.COLUMNS.index("p, Holm")] for line in lines] == ["0.04", "0.04"]
