import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_prune.masks import Mask, difference, jaccard, load_mask, pack_bits, row_top_k
from tests.reference import oracles


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 6),
    columns=st.integers(1, 40),
    levels=st.sampled_from([1, 2, 5, 1000]),
    sparsity=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 0.9, 0.99]),
)
@settings(max_examples=200, deadline=None)
def test_row_top_k_equals_sorting(seed, rows, columns, levels, sparsity):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(levels, (rows, columns), generator=generator).float() - 1
    tie = torch.randint(3, (rows, columns), generator=generator).float()
    expected = oracles.row_top_k(score.tolist(), tie.tolist(), sparsity)
    assert row_top_k(score, tie, sparsity).tolist() == expected


def test_ties_go_to_importance_then_to_the_left():
    score = torch.tensor([[0.0, 0.0, 0.0, 0.0, 5.0]])
    importance = torch.tensor([[1.0, 2.0, 1.0, 2.0, 0.0]])
    assert row_top_k(score, importance, 0.2).tolist() == [[True, True, False, True, True]]
    assert row_top_k(score, importance, 0.4).tolist() == [[False, True, False, True, True]]


def test_infinite_scores_are_ordered():
    score = torch.tensor([[float("inf"), float("-inf"), 1.0, float("-inf")]])
    assert row_top_k(score, torch.ones(1, 4), 0.5).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, float("nan")])
def test_impossible_sparsity_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity must be in"):
        row_top_k(torch.ones(1, 3), torch.ones(1, 3), sparsity)


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        row_top_k(torch.tensor([[1.0, float("nan")]]), torch.ones(1, 2), 0.5)


def example(keep: list[list[bool]], fingerprint: str = "f") -> Mask:
    tensor = torch.tensor(keep)
    return Mask({"a": pack_bits(tensor)}, {"a": tuple(tensor.shape)}, fingerprint, {"method": "test"})


def test_counts_by_hand():
    first = example([[True] * 9 + [False], [False] * 5 + [True] * 5])
    second = example([[True] * 10, [False] * 10])
    assert first.sparsity == pytest.approx(6 / 20)
    assert first.keep("a").tolist()[1] == [False] * 5 + [True] * 5
    assert difference(first, second) == {"a": pytest.approx(6 / 20)}
    # Dropped: 6 and 10, of which 5 in common.
    assert jaccard(first, second) == pytest.approx(5 / 11)


def test_save_and_load(tmp_path):
    mask = example([[True, False] * 7, [False, False] * 7])
    size = mask.save(tmp_path / "m.safetensors")
    loaded = load_mask(tmp_path / "m.safetensors")
    assert size == (tmp_path / "m.safetensors").stat().st_size
    assert torch.equal(loaded.keep("a"), mask.keep("a"))
    assert (loaded.model_fingerprint, loaded.description) == ("f", {"method": "test"})
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("damage", ["truncate", "text", "empty"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / "m.safetensors"
    example([[True, False]]).save(path)
    content = path.read_bytes()
    path.write_bytes({"truncate": content[:-1], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(ValueError, match="not a readable persona file"):
        load_mask(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no persona file"):
        load_mask(tmp_path / "none")
