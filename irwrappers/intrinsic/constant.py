"""The same reward at every step: a live bonus."""

from __future__ import annotations

import torch
from torch import Tensor

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.registry import register
from irwrappers.transitions import Transitions


@register("constant")
class ConstantReward(IntrinsicReward):
    """1 at every step, so that a longer episode is worth more: the live bonus that LIRPG (arXiv 1804.06459) is compared with.

    Its size is the wrapper's ``coef``; give ``normalize_reward=False`` with it. Where episodes have one length it changes
    nothing.
    """

    n_rewards = 1

    def compute(self, batch: Transitions) -> Tensor:
        return torch.ones(batch.n_steps, batch.n_envs, 1, device=batch.terminated.device)
