"""Regression of a reward network on rewards that follow from a task's dense reward, which is known in meta-training only."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sb3_ext.common.gae import discounted_sum


class ImitationTargets(NamedTuple):
    """What the running sums of an agent's rewards are regressed on.

    Attributes:
        sums: targets of the sums ``[T, B]``.
        continues: 1 where a sum continues that of the step before, 0 where it begins anew ``[T, B]``.
        expectiles: the expectile that is estimated at each step ``[T, B]``.
        weights: one over the mean square of such sums, 0 where a step is not learned from ``[T, B]``.
    """

    sums: Tensor
    continues: Tensor
    expectiles: Tensor
    weights: Tensor


def imitation_targets(targets: Tensor, continues: Tensor, found: Tensor, counts: Tensor, expectile: float) -> ImitationTargets:
    """Return the regression targets: before an agent's first success the expectile of the sums of an episode's rewards.

    After it, or if the expectile is 0.5, it is the mean of single steps: where the goal is known there is nothing to be
    optimistic about, and a mean of sums is a sum of means, which single steps learn faster.

    Args:
        targets: rewards to imitate ``[T, B]``.
        continues: 1 where a step's episode is that of the step before, 0 where one begins ``[T, B]``.
        found: whether the agent has succeeded so far, bool ``[T, B]``.
        counts: the steps to learn from, bool ``[T, B]``.
        expectile: τ, in [0.5, 1).
    """
    alone = found | (expectile == 0.5)
    continues = continues.masked_fill(alone, 0)
    sums = running_sums(targets, continues)
    unit = torch.where(alone, _mean_square(sums[counts & alone]), _mean_square(sums[counts & ~alone]))
    return ImitationTargets(sums, continues, torch.where(alone, 0.5, expectile), counts / unit)


def _mean_square(values: Tensor) -> Tensor:
    return values.square().sum() / max(len(values), 1) + 1e-8


def running_sums(rewards: Tensor, continues: Tensor, so_far: Tensor | None = None) -> Tensor:
    """Return the sum of each episode's rewards up to each step ``[T, B]``, differentiable in the rewards.

    Args:
        rewards: ``[T, B]``.
        continues: 1 where a step's episode is that of the step before, 0 where one begins ``[T, B]``.
        so_far: sums before the first step ``[1, B]``; None: 0.
    """
    if so_far is not None:
        rewards = torch.cat([rewards[:1] + continues[:1] * so_far, rewards[1:]])
    return discounted_sum(rewards.flip(0), continues.flip(0)).flip(0)


def expectile_loss(predictions: Tensor, targets: Tensor, expectile: float | Tensor) -> Tensor:
    """Return squared errors, times 2τ below their targets and times 2 (1 − τ) above them.

    The minimum over a random target is the τ-expectile, at 0.5 the mean (Newey & Powell, 1987).

    Args:
        predictions: of any shape.
        targets: of the same shape.
        expectile: τ.
    """
    errors = targets - predictions
    return 2 * (expectile - (errors < 0).to(errors.dtype)).abs() * errors.square()
