"""Scales of rewards: the running deviation, or the range, of their return."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from irwrappers import RunningStd


def accumulated(rewards: Tensor, before: Tensor | None, gamma: float) -> Tensor:
    """Return R_t = r_t + γ R_{t−1} ``[T, B, …]``.

    Args:
        rewards: ``[T, B, …]``.
        before: R before the first step ``[B, …]``; None, or another shape: 0.
        gamma: γ.
    """
    running = torch.zeros_like(rewards[0]) if before is None or before.shape != rewards.shape[1:] else before
    returns = []
    for reward in rewards:  # a loop over time, because the recurrence is sequential
        running = reward + gamma * running
        returns.append(running)
    return torch.stack(returns)


class ReturnStd(nn.Module):
    """Running standard deviation of R_t = r_t + γ R_{t−1} for each reward channel, over all steps and environments.

    R is accumulated along time in each environment, through the ends of episodes (arXiv 1810.12894, §2.4).

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
        """Standard deviation ``[n_rewards]``."""
        return self.running.std

    def forget(self) -> None:
        """Set the running returns to 0, as after a reset of the environment; the deviation stays."""
        self._returns = None

    @torch.no_grad()
    def update(self, rewards: Tensor) -> None:
        """Update the deviation with rewards ``[T, B, n_rewards]``, the steps after those of the last call."""
        returns = accumulated(rewards, self._returns, self.gamma)
        self._returns = returns[-1]
        self.running.update(returns)

    def normalize(self, rewards: Tensor) -> Tensor:
        """Return ``rewards`` divided by the deviation."""
        return self.running.normalize(rewards)


class ReturnRange(nn.Module):
    """Range of R_t = r_t + γ R_{t−1}, accumulated as in :class:`ReturnStd`, from its lowest to its highest value or 0.

    A reward of 1 for success has a range of about 1, however rare it is. Its deviation is tiny at the first success, and
    noise that is divided by it large.

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
        """Set the running returns to 0, as after a reset of the environment; the range stays."""
        self._returns = None

    @torch.no_grad()
    def update(self, rewards: Tensor) -> None:
        """Update the range with rewards ``[T, B]``, the steps after those of the last call."""
        returns = accumulated(rewards.to(self.lowest), self._returns, self.gamma)
        self._returns = returns[-1]
        self.lowest.copy_(torch.minimum(self.lowest, returns.min()))
        self.highest.copy_(torch.maximum(self.highest, returns.max()))

    @property
    def scale(self) -> float:
        """The range, or 1 while all rewards were 0."""
        return float(self.highest - self.lowest) or 1.0
