"""A reward that is noise, as a control: how much exploration gains from a reward without information."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.registry import register
from irwrappers.transitions import Transitions
from irwrappers.validation import check_range


@register("noise")
class NoiseReward(IntrinsicReward):
    """Independent N(0, 1) samples at every step, independent of states and actions: the control of an ablation.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        n_rewards: number of channels.
        seed: of the samples; step t of B environments has the same ones in every run.
    """

    steps: Tensor

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, n_rewards: int = 6, seed: int = 0) -> None:
        super().__init__(observation_space, action_space)
        check_range("n_rewards", n_rewards, 1, integer=True, schedule=False)
        self.n_rewards = n_rewards
        self.seed = seed
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def compute(self, batch: Transitions) -> Tensor:
        noise = torch.empty(batch.n_steps, batch.n_envs, self.n_rewards)
        for t, row in enumerate(noise, start=int(self.steps)):  # a seed each, because batches may be split anywhere in time
            row.normal_(generator=torch.Generator().manual_seed(self.seed * 1_000_003 + t))
        return noise.to(self.steps.device)

    def advance(self, batch: Transitions) -> None:
        self.steps += batch.n_steps
