"""The terms of PPO's loss (Schulman et al., arXiv 1707.06347), as in the ``train`` of SB3's PPO."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def policy_loss(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Return −mean min(ratio Â, clip(ratio) Â) ``[]`` for ``ratio`` and ``advantages`` ``[n]``."""
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    return -torch.min(advantages * ratio, advantages * clipped).mean()


def entropy_loss(log_prob: Tensor, entropy: Tensor | None) -> Tensor:
    """Return −mean entropy ``[]``; without a closed form (``entropy=None``) it is estimated by −log π ``[n]``."""
    return -torch.mean(-log_prob if entropy is None else entropy)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None) -> Tensor:
    """Return the mean squared error ``[]`` of values ``[n]``, whose change is clipped to ``clip_range`` if it is not None."""
    if clip_range is not None:
        values = old_values + torch.clamp(values - old_values, -clip_range, clip_range)
    return functional.mse_loss(returns, values)


def normalized(advantages: Tensor) -> Tensor:
    """Return advantages ``[n]`` with mean 0 and deviation 1; a single one is returned as it is."""
    if len(advantages) == 1:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
