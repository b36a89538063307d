"""The tables of the method comparison, from run directories written by hand."""

import pytest

from experiments.method_comparison import table as comparison
from tests.experiments_support import write_run


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


def test_only_masks_that_drop_alike_are_paired_with_random_ones_and_a_wreck_is_named(tmp_path):
    write_run(tmp_path / "a", "wanda", [1.0, 2.0], sparsity=0.2)
    write_run(tmp_path / "b", "sparse", [1.0, 2.0], sparsity=0.2, settings={"overrides": ["mlp:0.1"]})
    write_run(tmp_path / "c", "contrastive_taylor", [1.0, 2.0], sparsity=0.2, settings={"allocation": "model"})
    write_run(tmp_path / "d", "random", [0.5, 0.5], sparsity=0.2, **{comparison.RATIO: 300.0})
    lines = [line.split(" | ") for line in comparison.table(tmp_path).splitlines() if line.startswith("| ")]
    cells = [line[comparison.COLUMNS.index("margin - random")] for line in lines[1:]]
    assert cells[0] == cells[2] == cells[3] == ""
    assert cells[1].startswith("+1.00 [")
    assert cells[1].endswith(" (wrecked)")


def test_a_mask_under_the_prompt_is_a_line_of_its_own(tmp_path):
    prompted = {f"with_prompt/choice/{name}": 0.75 for name in ("accuracy", "accuracy_low", "accuracy_high")}
    prompted |= {"with_prompt/choice/margin_p": 0.04, "with_prompt/capability/neutral_drift": 0.5}
    alone = {"choice/margin_p": 0.2, "capability/neutral_drift": 0.1, "mask/build_s": 7.0}
    write_run(tmp_path / "a", "wanda", [1.0, 2.0], sparsity=0.2, **prompted, **alone)
    write_run(tmp_path / "b", "random", [0.5, 0.5], sparsity=0.2)
    lines = [line.strip("| ").split(" | ") for line in comparison.table(tmp_path).splitlines() if line.startswith("| ")]
    cells = {line[0]: dict(zip(comparison.COLUMNS, line, strict=True)) for line in lines[1:]}
    assert list(cells) == ["random 0.2", "wanda 0.2", "wanda 0.2 and prompt"]
    own, under = cells["wanda 0.2"], cells["wanda 0.2 and prompt"]
    assert (own["p (margin)"], own["neutral drift"]) == ("0.2", "+0.100")
    assert under["accuracy"] == "0.750 [0.750, 0.750]"
    assert (under["p (margin)"], under["neutral drift"]) == ("0.04", "+0.500")
    # The random masks were not asked under the prompt.
    assert own["margin - random"]
    assert under["margin - random"] == ""
    assert [cell["build, s"] for cell in (own, under)] == ["7", "7"]
    assert [cell["stored, MB"] for cell in (own, under)] == ["1", "1"]
