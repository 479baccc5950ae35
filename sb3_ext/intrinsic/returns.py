"""The scale of an intrinsic reward: the running deviation of its return."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from irwrappers import RunningStd


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
        if self._returns is None or self._returns.shape != rewards.shape[1:]:
            self._returns = torch.zeros_like(rewards[0])
        returns = []
        for reward in rewards:  # over time, which is sequential; copies are side by side
            self._returns = reward + self.gamma * self._returns
            returns.append(self._returns)
        self.running.update(torch.stack(returns))

    def normalize(self, rewards: Tensor) -> Tensor:
        """``rewards / std``."""
        return self.running.normalize(rewards)
