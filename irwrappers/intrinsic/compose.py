"""Several intrinsic rewards as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from irwrappers.intrinsic.base import CompositeReward, IntrinsicReward
from irwrappers.transitions import Transitions


class Concat(CompositeReward):
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


class Sum(CompositeReward):
    """``Σ w_i r_i``, channel by channel.

    The rewards are not normalised before they are added, so the weights must make up for different scales too.

    Args:
        rewards: at least one, all built for the same spaces and with the same number of channels.
        weights: a finite number for each reward; None: 1 each.
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
