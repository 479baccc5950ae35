"""What a reward network imitates: payments by a task's dense reward, that of meta-training only."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sb3_ext.common.gae import discounted_sum


class ImitationLesson(NamedTuple):
    """What the running sums of payments are regressed on, all ``[T, B]``: sums that begin anew where ``goes_on`` is 0, by an
    expectile each; weights are one over the mean square of such sums, 0 where nothing is taught."""

    sums: Tensor
    goes_on: Tensor
    expectiles: Tensor
    weights: Tensor


def imitation_lesson(targets: Tensor, goes_on: Tensor, found: Tensor, counts: Tensor, expectile: float) -> ImitationLesson:
    """Before the first success the expectile of an episode's sums; after it, and if it is 0.5, the mean of single steps.

    Where the goal is known there is nothing to be optimistic about, and a mean of sums is a sum of means: such steps are
    regressed one by one, which learns faster.

    Args:
        targets: the pay of each step. goes_on: 1 where an episode does. found: whether there was a success. counts: what is
            taught; all ``[T, B]``.
    """
    alone = found | (expectile == 0.5)
    goes_on = goes_on.masked_fill(alone, 0)
    sums = running_sums(targets, goes_on)
    unit = torch.where(alone, _mean_square(sums[counts & alone]), _mean_square(sums[counts & ~alone]))
    return ImitationLesson(sums, goes_on, torch.where(alone, 0.5, expectile), counts / unit)


def _mean_square(values: Tensor) -> Tensor:
    return values.square().sum() / max(len(values), 1) + 1e-8


def running_sums(rewards: Tensor, goes_on: Tensor, so_far: Tensor | None = None) -> Tensor:
    """Of each episode, up to each step ``[T, B]``; differentiable in the rewards.

    Args:
        goes_on: 1 where a step's episode is that of the step before, 0 where one begins. so_far: before the first step
            ``[1, B]``.
    """
    if so_far is not None:
        rewards = torch.cat([rewards[:1] + goes_on[:1] * so_far, rewards[1:]])
    return discounted_sum(rewards.flip(0), goes_on.flip(0)).flip(0)


def expectile_loss(predictions: Tensor, targets: Tensor, expectile: float | Tensor) -> Tensor:
    """Squared errors, those of predictions below their targets times 2τ and above them times 2 (1 − τ): its minimum over a
    random target is the τ-expectile, at 0.5 the mean (Newey & Powell, 1987)."""
    errors = targets - predictions
    return 2 * (expectile - (errors < 0).to(errors.dtype)).abs() * errors.square()
