"""``RunningStd`` against NumPy."""

import numpy as np
import pytest
import torch

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import RunningStd

# Running deviation, distinct rows


def test_running_std_equals_numpy_on_everything_seen():
    rng, std, parts = np.random.default_rng(0), RunningStd(3), []
    for shape in ((7, 2), (1, 1), (40, 3), (0, 2)):
        parts.append(1e3 + rng.normal(size=(*shape, 3)) * [1, 10, 0.01])
        std.update(torch.as_tensor(parts[-1]))
    seen = np.concatenate([part.reshape(-1, 3) for part in parts])
    np.testing.assert_allclose(std.std, seen.std(0), rtol=1e-9)
    np.testing.assert_allclose(std.mean, seen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std.count, len(seen))
    x = torch.ones(2, 3)
    torch.testing.assert_close(std.normalize(x), x / torch.as_tensor(seen.std(0), dtype=torch.float32), rtol=1e-5, atol=0)


def test_running_std_counts_each_channel_by_its_mask():
    rng, std = np.random.default_rng(0), RunningStd(2)
    x, mask = rng.normal(size=(6, 4, 2)), rng.random((6, 4, 2)) < 0.5
    mask[..., 1] = False
    std.update(torch.as_tensor(x), torch.as_tensor(mask))
    assert std.std[0] == pytest.approx(x[..., 0][mask[..., 0]].std())
    assert std.std[1] == 1 and std.count[1] == 0  # nothing seen


def test_running_std_ignores_whatever_lies_under_the_mask():
    std = RunningStd(1)
    std.update(torch.tensor([[1.0], [float("nan")], [float("inf")], [3.0]]), torch.tensor([[True], [False], [False], [True]]))
    assert std.mean.item() == 2 and std.std.item() == 1


def test_running_std_takes_a_mask_without_the_channel_axis_expanded():
    std = RunningStd(2)
    std.update(torch.tensor([[1.0, 10.0], [3.0, 30.0], [9.0, 9.0]]), torch.tensor([[True], [True], [False]]))
    assert std.std.tolist() == [1, 10]
