"""Environments and functions that the tests of common_math share."""

import torch


def central_difference(function, x, step=1e-6):
    """Jacobian of ``function``: float64 ``[n]`` → ``[m]`` as ``[m, n]``."""
    columns = [(function(x + step * e) - function(x - step * e)) / (2 * step) for e in torch.eye(len(x), dtype=x.dtype)]
    return torch.stack(columns, -1)


def make_tree(seed, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    return {
        "w": scale * torch.randn(3, 2, generator=rng, dtype=torch.float64),
        "b": scale * torch.randn(2, generator=rng).double(),
    }
