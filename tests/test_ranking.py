import pytest
import torch

from persona_prune.ranking import kth_largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (600, 1000)])
def test_equals_sorting(shape, dtype):
    values = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    values[:, 0] = 0
    ordered = values.sort(dim=1, descending=True).values
    for k in {1, (shape[1] + 1) // 2, shape[1]}:
        assert torch.equal(kth_largest(values, k), ordered[:, k - 1 : k])


def test_infinities_and_equal_values():
    values = torch.tensor([[2.0, -torch.inf, 2.0, torch.inf]])
    assert [kth_largest(values, k).item() for k in (1, 2, 3, 4)] == [torch.inf, 2.0, 2.0, -torch.inf]
