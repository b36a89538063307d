import pytest
import torch

from persona_prune.masks.top_k import at_least_kth


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (0, 5), (3, 7), (600, 1000), (70000, 3), (2, 200000)])
def test_equals_sorting(shape, dtype, threads):
    values = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    values[:, 0] = 0
    ordered = values.sort(dim=1, descending=True).values
    for k in {1, (shape[1] + 1) // 2, shape[1]}:
        chosen, threshold, more = at_least_kth(values, k)
        assert torch.equal(threshold, ordered[:, k - 1 : k])
        assert torch.equal(chosen, values >= threshold)
        assert torch.equal(more, chosen.sum(1) > k)


def test_infinities_and_equal_values():
    values = torch.tensor([[2.0, -torch.inf, 2.0, torch.inf]])
    found = [at_least_kth(values, k) for k in (1, 2, 3, 4)]
    assert [threshold.item() for _, threshold, _ in found] == [torch.inf, 2.0, 2.0, -torch.inf]
    assert [more.item() for *_, more in found] == [False, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("row", [0, 599])
def test_nan_is_refused(row, dtype, threads):
    values = torch.zeros(600, 1000, dtype=dtype)
    values[row, 500] = torch.nan
    for k in (1, 500, 1000):
        with pytest.raises(ValueError, match="NaN"):
            at_least_kth(values, k)
