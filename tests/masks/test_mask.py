import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_prune.masks.mask import Mask, difference, drop_all_of, dropped_like, jaccard, pack_bits
from persona_prune.masks.top_k import row_top_k
from persona_prune.methods.magnitude import magnitude_like
from persona_prune.saved import mask_coding
from persona_prune.saved.mask_file import load_mask, save_mask
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
    assert row_top_k(score, tie.__getitem__, sparsity).tolist() == expected


def test_ties_go_to_importance_then_to_the_left():
    score = torch.tensor([[0.0, 0.0, 0.0, 0.0, 5.0]])
    importance = torch.tensor([[1.0, 2.0, 1.0, 2.0, 0.0]])
    assert row_top_k(score, importance.__getitem__, 0.2).tolist() == [[True, True, False, True, True]]
    assert row_top_k(score, importance.__getitem__, 0.4).tolist() == [[False, True, False, True, True]]


def test_infinite_scores_are_ordered():
    score = torch.tensor([[float("inf"), float("-inf"), 1.0, float("-inf")]])
    assert row_top_k(score, torch.ones(1, 4).__getitem__, 0.5).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, float("nan")])
def test_impossible_sparsity_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity must be in"):
        row_top_k(torch.ones(1, 3), torch.ones(1, 3).__getitem__, sparsity)


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        row_top_k(torch.tensor([[1.0, float("nan")]]), torch.ones(1, 2).__getitem__, 0.5)


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
    size = save_mask(mask, tmp_path / "m.safetensors")
    loaded = load_mask(tmp_path / "m.safetensors")
    assert size == (tmp_path / "m.safetensors").stat().st_size
    assert torch.equal(loaded.keep("a"), mask.keep("a"))
    assert (loaded.model_fingerprint, loaded.description) == ("f", {"method": "test"})
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 5),
    columns=st.sampled_from([1, 7, 8, 13, 64, 700]),
    share=st.sampled_from([0.0, 0.001, 0.02, 0.3, 0.5, 0.98, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_codes_give_the_bits_back(seed, rows, columns, share):
    bits = pack_bits(torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < share)
    coding, stored = mask_coding.encode(bits, columns)
    assert torch.equal(mask_coding.decode(coding, stored, rows, columns), bits)


def test_gaps_by_hand():
    # 2 weights, a dropped one, 255 + 45 weights, a dropped one, none left: 304 in all.
    keep = torch.ones(1, 304, dtype=torch.bool)
    keep[0, [2, 303]] = False
    coding, stored = mask_coding.encode(pack_bits(keep), 304)
    assert coding == "dropped"
    assert mask_coding.inflate(stored, 99).tolist() == [2, 255, 45, 0]


@pytest.mark.parametrize(
    ("coding", "raw", "why"),
    [
        ("dropped", [2, 255, 46, 0], "do not add up"),
        ("dropped", [2, 255, 45], "do not add up"),
        ("dropped", [255, 48], "do not add up"),
        ("dropped", [255], "do not add up"),
        ("dropped", [], "do not add up"),
        ("kept", [0] * 306, "longer or shorter"),
        ("bits", [1] * 39, "longer or shorter"),
        ("bits", [1] * 37, "37 bytes of bits, expected 1x38"),
        ("other", [1] * 38, "coding 'other' is not one of"),
    ],
)
def test_codes_that_are_none_are_refused(coding, raw, why):
    stored = mask_coding.deflate(np.array(raw, np.uint8))
    with pytest.raises(ValueError, match=why):
        mask_coding.decode(coding, stored, 1, 304)


@pytest.mark.parametrize("sparsity", [0.005, 0.02, 0.05, 0.08, 0.09, 0.2, 0.4, 0.6, 0.95])
def test_a_mask_takes_little_more_than_its_entropy(sparsity, tmp_path):
    rows, columns = 200, 600
    score = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
    mask = example(row_top_k(score, score.__getitem__, sparsity).tolist())
    dropped = columns - int((1 - sparsity) * columns + 1e-9)
    p = dropped / columns
    entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) * rows * columns / 8
    assert mask.entropy == pytest.approx(entropy)
    # The header, about 700 bytes, is not what counts in a model.
    assert save_mask(mask, tmp_path / "m.safetensors") - 700 < 1.1 * entropy


@pytest.mark.parametrize("damage", ["truncate", "text", "empty"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / "m.safetensors"
    save_mask(example([[True, False]]), path)
    content = path.read_bytes()
    path.write_bytes({"truncate": content[:-1], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(ValueError, match="not a readable persona file"):
        load_mask(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no persona file"):
        load_mask(tmp_path / "none")


@pytest.fixture
def uneven() -> Mask:
    """Rows that drop 0, 3 and 11 of 11 weights."""
    keep = torch.ones(3, 11, dtype=torch.bool)
    keep[1, [0, 4, 10]] = False
    keep[2] = False
    return Mask({"a": pack_bits(keep)}, {"a": (3, 11)}, "f", {})


def test_random_masks_drop_as_many_in_every_row(uneven):
    one, same, other = (dropped_like(uneven, seed).keep("a") for seed in (1, 1, 2))
    assert (~one).sum(1).tolist() == [0, 3, 11]
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_random_masks_favour_no_column(uneven):
    dropped = sum((~dropped_like(uneven, seed).keep("a"))[1].float() for seed in range(600))
    # 600 draws of 3 from 11: 163.6 expected for each, standard deviation 10.9.
    assert ((dropped - 600 * 3 / 11).abs() < 5 * 10.9).all()


def test_the_magnitude_control_drops_the_smallest_of_every_row(uneven):
    linear = torch.nn.Linear(11, 3, bias=False)
    linear.weight.data = torch.tensor([[(-1.0) ** j * (11 - j) for j in range(11)]] * 3)
    dropped = ~magnitude_like(uneven, {"a": linear}).keep("a")
    assert dropped.sum(1).tolist() == [0, 3, 11]
    assert dropped[1].nonzero()[:, 0].tolist() == [8, 9, 10]
    linear.weight.data = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]] * 3)
    dropped = ~magnitude_like(uneven, {"a": linear}).keep("a")
    assert dropped[1].nonzero()[:, 0].tolist() == [6, 8, 10]


def test_a_mix_drops_what_any_part_drops(uneven):
    other = Mask({"a": pack_bits(torch.eye(3, 11) == 0)}, {"a": (3, 11)}, "f", {})
    mixed = drop_all_of([uneven, other], {"method": "mix"}).keep("a")
    assert torch.equal(mixed, uneven.keep("a") & other.keep("a"))
    with pytest.raises(ValueError, match="different shape"):
        drop_all_of([uneven, Mask({"b": uneven.bits["a"]}, {"b": (3, 11)}, "f", {})], {})
