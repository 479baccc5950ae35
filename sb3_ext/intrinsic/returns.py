"""The scale of a reward: the running deviation, or the range, of its return."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from irwrappers import RunningStd


def accumulated(rewards: Tensor, before: Tensor | None, gamma: float) -> Tensor:
    """Return R_t = r_t + γ R_{t−1} for rewards ``[T, B, …]``, which follow ``before`` ``[B, …]``, or nothing."""
    running = torch.zeros_like(rewards[0]) if before is None or before.shape != rewards.shape[1:] else before
    returns = []
    for reward in rewards:  # over time, which is sequential; copies are side by side
        running = reward + gamma * running
        returns.append(running)
    return torch.stack(returns)


class ReturnStd(nn.Module):
    """Standard deviation of R_t = r_t + γ R_{t−1}, accumulated along time in each copy and through the ends of episodes
    (arXiv 1810.12894, §2.4), over all steps and copies seen, for each reward channel.

    Args:
        n_rewards: number of channels.
        gamma: discount.
    """

    def __init__(self, n_rewards: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.running = RunningStd(n_rewards)
        self._returns: Tensor | None = None  # [B, n_rewards]; not saved: a run that is loaded starts with a reset

    @property
    def std(self) -> Tensor:
        """``[n_rewards]``."""
        return self.running.std

    def forget(self) -> None:
        """Begin the running returns at zero, as after a reset of the environment; the deviation stays."""
        self._returns = None

    @torch.no_grad()
    def update(self, rewards: Tensor) -> None:
        """Take in rewards ``[T, B, n_rewards]`` that follow those of the call before."""
        returns = accumulated(rewards, self._returns, self.gamma)
        self._returns = returns[-1]
        self.running.update(returns)

    def normalize(self, rewards: Tensor) -> Tensor:
        """``rewards / std``."""
        return self.running.normalize(rewards)


class ReturnRange(nn.Module):
    """How far R_t = r_t + γ R_{t−1}, accumulated as in :class:`ReturnStd`, has been from its lowest to its highest or to 0.

    A reward of 1 for success, met once or often, has about the range 1. A deviation would be next to nothing at its first
    success, and noise divided by it large.

    Args:
        gamma: discount.
    """

    lowest: Tensor
    highest: Tensor

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("lowest", torch.zeros(()))
        self.register_buffer("highest", torch.zeros(()))
        self._returns: Tensor | None = None  # [B]; not saved

    def forget(self) -> None:
        """Begin the running returns at zero, as after a reset of the environment; the range stays."""
        self._returns = None

    @torch.no_grad()
    def update(self, rewards: Tensor) -> None:
        """Take in rewards ``[T, B]`` that follow those of the call before."""
        returns = accumulated(rewards.to(self.lowest), self._returns, self.gamma)
        self._returns = returns[-1]
        self.lowest.copy_(torch.minimum(self.lowest, returns.min()))
        self.highest.copy_(torch.maximum(self.highest, returns.max()))

    @property
    def scale(self) -> float:
        """The range; 1 while every reward was 0."""
        return float(self.highest - self.lowest) or 1.0
