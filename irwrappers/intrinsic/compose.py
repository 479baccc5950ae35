"""Several intrinsic rewards as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import gymnasium as gym
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.transitions import Transitions


class _Several(IntrinsicReward):
    """Hands on to its parts whatever comes."""

    def __init__(self, rewards: Sequence[IntrinsicReward]) -> None:
        if not rewards:
            raise ValueError(f"{type(self).__name__} needs at least one intrinsic reward, got none.")
        super().__init__(rewards[0].observation_space, rewards[0].action_space)
        self.rewards = nn.ModuleList(rewards)

    def _parts(self) -> list[tuple[str, IntrinsicReward]]:
        parts = [part for part in self.rewards if isinstance(part, IntrinsicReward)]
        return [(f"{i}_{type(part).__name__.lower()}", part) for i, part in enumerate(parts)]

    @property
    def needs_fit(self) -> bool:
        return any(part.needs_fit for _, part in self._parts())

    def update(self, batch: Transitions) -> dict[str, float]:
        return {f"{name}/{key}": value for name, part in self._parts() for key, value in part.update(batch).items()}

    def learn(self, batch: Transitions) -> dict[str, float]:
        return {f"{name}/{key}": value for name, part in self._parts() for key, value in part.learn(batch).items()}

    def advance(self, batch: Transitions) -> None:
        for _, part in self._parts():
            part.advance(batch)

    def forget(self) -> None:
        for _, part in self._parts():
            part.forget()

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Fit those that need it in turn; each may take an even share of what the ones before it left."""
        waiting = [part for _, part in self._parts() if part.needs_fit]
        used = 0
        for number, part in enumerate(waiting):
            share = (total_timesteps - used) // (len(waiting) - number)
            used += part.fit(env, share, seed=seed, progress_bar=progress_bar)
        return used


class Concat(_Several):
    """The channels of several rewards side by side.

    Args:
        rewards: at least one, all built for the same spaces.
    """

    def __init__(self, rewards: Sequence[IntrinsicReward]) -> None:
        super().__init__(rewards)
        self.n_rewards = sum(reward.n_rewards for reward in rewards)

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(f"{name}_{channel}" for name, part in self._parts() for channel in part.channel_names)

    def compute(self, batch: Transitions) -> Tensor:
        return torch.cat([part.compute(batch) for _, part in self._parts()], -1)


class Sum(_Several):
    """``Σ w_i r_i``, channel by channel.

    Each part is paid as it is, so that the weights have to make up for different scales too.

    Args:
        rewards: at least one, all built for the same spaces and with the same number of channels.
        weights: a finite number for each reward; 1 by default.
    """

    def __init__(self, rewards: Sequence[IntrinsicReward], weights: Sequence[float] | None = None) -> None:
        super().__init__(rewards)
        channels = [reward.n_rewards for reward in rewards]
        if len(set(channels)) > 1:
            raise ValueError(f"Sum needs rewards with the same number of channels, got {channels}; Concat takes any.")
        self.n_rewards = rewards[0].n_rewards
        self.weights = [1.0] * len(rewards) if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(rewards) or not all(map(math.isfinite, self.weights)):
            raise ValueError(f"Sum needs a finite weight for each of its {len(rewards)} rewards, got {weights!r}.")

    def compute(self, batch: Transitions) -> Tensor:
        parts = zip(self.weights, self._parts(), strict=True)
        return torch.stack([weight * part.compute(batch) for weight, (_, part) in parts]).sum(0)


class Select(_Several):
    """Some channels of a reward.

    Args:
        reward: which keeps its state, shared with whoever else holds it. channels: of ``reward``, in the order wanted.
    """

    channels: list[int]

    def __init__(self, reward: IntrinsicReward, channels: Sequence[int]) -> None:
        if isinstance(reward, Select):  # one layer, however often channels were dropped
            inner: list[int] = reward.channels
            reward, channels = reward._parts()[0][1], [inner[channel] for channel in channels]
        if not channels or not all(0 <= channel < reward.n_rewards for channel in channels):
            raise ValueError(
                f"Select needs channels of {type(reward).__name__}, 0 to {reward.n_rewards - 1}, got {list(channels)}."
            )
        super().__init__([reward])
        self.channels = [int(channel) for channel in channels]
        self.n_rewards = len(self.channels)
        self.has_episode_memory = reward.has_episode_memory

    @property
    def channel_names(self) -> tuple[str, ...]:
        names = self._parts()[0][1].channel_names
        return tuple(names[channel] for channel in self.channels)

    def compute(self, batch: Transitions) -> Tensor:
        return self._parts()[0][1].compute(batch)[..., self.channels]
