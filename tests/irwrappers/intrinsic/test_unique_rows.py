"""``unique_rows`` against torch."""

import pytest
import torch

import envs  # noqa: F401  (registers sparse/…)
from irwrappers.unique_rows import unique_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(1, 1), (500, 2), (5000, 4), (300, 40), (0, 3)])
def test_unique_rows_equals_torch(dtype, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2 if dtype == torch.bool else 12, shape, generator=generator).to(dtype)
    rows, inverse = unique_rows(x)
    assert torch.equal(rows[inverse], x)
    if len(x):
        assert torch.equal(torch.unique(rows, dim=0), torch.unique(x, dim=0))
        assert len(rows) == len(torch.unique(x, dim=0))


def test_unique_rows_of_continuous_states():
    x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    rows, inverse = unique_rows(torch.cat([x, x[:100]]))
    assert len(rows) == 1000 and torch.equal(inverse[1000:], inverse[:100])
