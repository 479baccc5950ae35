"""A batch of transitions, time first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Transitions:
    """T steps of B parallel environments, time first.

    Args:
        observations: ``[T, B, …]`` (or a dict of such), as the environment gave them, unnormalised.
        actions: ``[T, B, …]``.
        next_observations: like ``observations``, those that the steps led to, before any reset.
        terminated: bool ``[T, B]``, the episode ended with this step, in a terminal state.
        truncated: bool ``[T, B]``, the episode was cut after this step, by a time limit.
        valid: bool ``[T, B]``, the steps that count, or None for all. Rewards of the others are not used and models do not
            learn from them.
    """

    observations: Any
    actions: Tensor
    next_observations: Any
    terminated: Tensor
    truncated: Tensor
    valid: Tensor | None = None

    @property
    def done(self) -> Tensor:
        """bool ``[T, B]``: the episode ended with this step."""
        return self.terminated | self.truncated

    @property
    def mask(self) -> Tensor:
        """bool ``[T, B]``: the steps that count; ``valid``, or all."""
        return torch.ones_like(self.terminated) if self.valid is None else self.valid

    @property
    def n_steps(self) -> int:
        """The number of steps, T."""
        return self.terminated.shape[0]

    @property
    def n_envs(self) -> int:
        """The number of parallel environments, B."""
        return self.terminated.shape[1]
