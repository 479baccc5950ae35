"""A constant reward: a live bonus."""

from __future__ import annotations

import torch
from torch import Tensor

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.registry import register
from irwrappers.transitions import Transitions


@register("constant")
class ConstantReward(IntrinsicReward):
    """A reward of 1 at every step, which makes longer episodes worth more.

    The live bonus that LIRPG (arXiv 1804.06459) is compared with. Its size is the wrapper's ``intrinsic_coef``; use
    ``normalize_reward=False`` with it. If all episodes have the same length it does not change the optimal policy.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
    """

    n_rewards = 1

    def compute(self, batch: Transitions) -> Tensor:
        return torch.ones(batch.n_steps, batch.n_envs, 1, device=batch.terminated.device)
