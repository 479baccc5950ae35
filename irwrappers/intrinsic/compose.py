"""Several intrinsic rewards as one."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from irwrappers.intrinsic.base import IntrinsicReward, Transitions


class Concat(IntrinsicReward):
    """The channels of several rewards side by side.

    Args:
        rewards: at least one, all built for the same spaces.
    """

    def __init__(self, rewards: Sequence[IntrinsicReward]) -> None:
        if not rewards:
            raise ValueError("Concat needs at least one intrinsic reward, got none.")
        super().__init__(rewards[0].observation_space, rewards[0].action_space)
        self.rewards = nn.ModuleList(rewards)
        self.n_rewards = sum(reward.n_rewards for reward in rewards)

    def _parts(self) -> list[tuple[str, IntrinsicReward]]:
        parts = [part for part in self.rewards if isinstance(part, IntrinsicReward)]
        return [(f"{i}_{type(part).__name__.lower()}", part) for i, part in enumerate(parts)]

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(f"{name}_{channel}" for name, part in self._parts() for channel in part.channel_names)

    @property
    def needs_fit(self) -> bool:
        return any(part.needs_fit for _, part in self._parts())

    def compute(self, batch: Transitions) -> Tensor:
        return torch.cat([part.compute(batch) for _, part in self._parts()], -1)

    def update(self, batch: Transitions) -> dict[str, float]:
        return {f"{name}/{key}": value for name, part in self._parts() for key, value in part.update(batch).items()}

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Fit those that need it in turn; each may take an even share of what the ones before it left."""
        waiting = [part for _, part in self._parts() if part.needs_fit]
        used = 0
        for number, part in enumerate(waiting):
            share = (total_timesteps - used) // (len(waiting) - number)
            used += part.fit(env, share, seed=seed, progress_bar=progress_bar)
        return used
