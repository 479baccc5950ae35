"""A batch of transitions, time first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Transitions:
    """T steps of B environment copies, time first.

    Attributes:
        observations, next_observations: ``[T, B, ...]`` (or dicts of such), as the environment gave them, unnormalised;
            ``next_observations`` are those before any reset.
        actions: ``[T, B, ...]``.
        terminated, truncated: bool ``[T, B]``.
        valid: bool ``[T, B]``, the steps that count, or None for all. Rewards of the others are never used and nothing is to
            be learned from them.
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
        """bool ``[T, B]``: ``valid``, or all."""
        return torch.ones_like(self.terminated) if self.valid is None else self.valid

    @property
    def n_steps(self) -> int:
        return self.terminated.shape[0]

    @property
    def n_envs(self) -> int:
        return self.terminated.shape[1]
