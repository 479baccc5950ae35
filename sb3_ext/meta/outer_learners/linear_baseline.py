"""Advantages without a critic: a linear regression of returns for each task, and normalised advantages."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_ext.common.gae import discounted_sum, generalized_advantage_estimation

RIDGE = 1e-5  # of the regression: features that are constant on a task would leave it undetermined


@torch.no_grad()
def linear_baseline(observations: Tensor, ages: Tensor, rewards: Tensor, done: Tensor, gamma: float) -> Tensor:
    """Return values ``[T + 1, B]``, for each task a linear regression of its discounted returns (arXiv 1604.06778).

    The features are the observation, its square, and a cubic in the step of the episode, in units of the latest. Episodes that
    end after the data are left out of the regression; where there are no others, values are 0.

    Args:
        observations: of the steps and of the one after them ``[T + 1, B, n_obs]``.
        ages: steps since the episode began ``[T + 1, B]``.
        rewards: ``[T, B]``.
        done: whether an episode ended, bool ``[T, B]``.
        gamma: discount of a step.
    """
    x = observations.double().clamp(-10, 10)
    time = ages.double()[..., None] / ages.max().clamp(min=1)
    features = torch.cat([x, x**2, time, time**2, time**3, torch.ones_like(time)], -1).transpose(0, 1)  # [B, T + 1, F]
    returns = discounted_sum(rewards.double(), gamma * (~done).double())
    whole = done.flip(0).cumsum(0).flip(0) > 0  # an end is still to come
    known = features[:, :-1] * whole.T[..., None]
    ridge = RIDGE * torch.eye(features.shape[-1], dtype=features.dtype, device=features.device)
    weights = torch.linalg.solve(known.mT @ known + ridge, known.mT @ returns.T[..., None])
    return (features @ weights)[..., 0].T.to(rewards.dtype)


def normalized_advantages(rewards: Tensor, values: Tensor, done: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Return GAE ``[T, B]`` with zero mean and unit deviation on each task; an episode's end counts as terminal.

    Args:
        rewards: ``[T, B]``.
        values: ``[T + 1, B]``.
        done: whether an episode ended, bool ``[T, B]``.
        gamma: discount of a step.
        gae_lambda: λ.
    """
    advantages = generalized_advantage_estimation(rewards, values[:-1], values[1:], done, done, gamma, gae_lambda)
    return (advantages - advantages.mean(0)) / (advantages.std(0) + 1e-8)
