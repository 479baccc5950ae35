"""The terms of PPO's loss, as SB3's PPO writes them in the middle of its ``train`` (Schulman et al., arXiv 1707.06347)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def policy_loss(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """−mean min(ratio Â, clip(ratio) Â) ``[]``, of ``[n]`` both."""
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    return -torch.min(advantages * ratio, advantages * clipped).mean()


def entropy_loss(log_prob: Tensor, entropy: Tensor | None) -> Tensor:
    """−mean entropy ``[]``; of a distribution without a closed form (``None``) it is estimated by −log π ``[n]``."""
    return -torch.mean(-log_prob if entropy is None else entropy)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None) -> Tensor:
    """Mean squared error ``[]`` of ``[n]``, of values that moved at most by ``clip_range`` if there is one."""
    if clip_range is not None:
        values = old_values + torch.clamp(values - old_values, -clip_range, clip_range)
    return functional.mse_loss(returns, values)


def normalized(advantages: Tensor) -> Tensor:
    """Mean 0 and deviation 1; a single one is left as it is."""
    if len(advantages) == 1:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
