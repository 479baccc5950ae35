"""A rollout with what a learned reward needs beside SB3's buffer: extrinsic rewards, and values and advantages of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor
from torch.utils._pytree import tree_map

from sb3_ext.common.gae import DiscountedSum, generalized_advantage_estimation
from sb3_ext.learned_reward.recorder import ExtrinsicRecorder


class Samples(NamedTuple):
    """Transitions ``[n, …]``.

    Attributes:
        observations: tensor or dict of tensors, as the policy sees them.
        actions: as the policy sampled them.
        old_values: of the policy's critic.
        old_log_prob: of the policy that collected.
        advantages: of extrinsic_coef · r_ex, with the policy's critic, as SB3 computes them.
        extrinsic_values: of V^ex.
        extrinsic_advantages: of r_ex, with V^ex.
        extrinsic_returns: λ-returns of r_ex, the targets of V^ex.
    """

    observations: Any
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    extrinsic_values: Tensor
    extrinsic_advantages: Tensor
    extrinsic_returns: Tensor

    def rows(self, indices: Tensor) -> Samples:
        """Return the transitions with these indices ``[m]``."""
        observations, *others = self
        if isinstance(observations, Tensor):
            observations = observations[indices]
        else:
            observations = {key: part[indices] for key, part in observations.items()}
        return Samples(observations, *(column[indices] for column in others))


@dataclass
class LearnedRewardRollout:
    """All T steps of B environments; samples are in SB3's order, environment by environment, n = B · T.

    Attributes:
        samples: all transitions.
        discount: ``[T, B]``, γλ, and 0 where an episode ended.
        extrinsic_rewards: ``[T, B]``.
        done: bool ``[T, B]``, whether an episode ended.
    """

    samples: Samples
    discount: Tensor
    extrinsic_rewards: Tensor
    done: Tensor

    @cached_property
    def discounted_sum(self) -> DiscountedSum:
        """Σ_i (γλ)^i r_{t+i} to the end of the episode: the part of rewards in GAE, which is linear in them."""
        return DiscountedSum(self.discount)

    def minibatches(self, batch_size: int | None) -> Iterator[Tensor]:
        """Yield indices of shuffled minibatches, sampled as SB3's buffers do; None for one minibatch of all."""
        indices = torch.from_numpy(np.random.permutation(len(self.samples.actions)))
        yield from indices.to(self.samples.actions.device).split(batch_size or len(indices))


def make_rollout(
    buffer: RolloutBuffer,
    recorder: ExtrinsicRecorder,
    last_observations: Any,
    last_dones: np.ndarray,
    to_tensor: Callable[[Any], Any],
    critic: Callable[[Any], Tensor],
    chunk_size: int,
) -> LearnedRewardRollout:
    """Return the rollout that ``buffer`` and ``recorder`` hold.

    Args:
        buffer: full, and not shuffled yet.
        recorder: the environment that the buffer was collected in.
        last_observations: observations after the last step.
        last_dones: ``[B]``, whether the last step ended an episode.
        to_tensor: turns observations of the environment into those that ``critic`` takes.
        critic: V^ex.
        chunk_size: observations that ``critic`` takes at a time.
    """

    def flat(array: np.ndarray) -> Tensor:
        array = np.asarray(array)
        return torch.as_tensor(array.swapaxes(0, 1).reshape(-1, *array.shape[2:]), device=buffer.device)

    def by_time(rows: Any) -> Tensor:  # [B·T] → [T, B]
        return rows.view(n_envs, n_steps).t()

    n_steps, n_envs = buffer.buffer_size, buffer.n_envs
    # MuJoCo's observations are float64; the networks cast them to float32 anyway.
    observations = tree_map(
        lambda part: part.float() if part.is_floating_point() else part, tree_map(flat, buffer.observations)
    )
    discrete = isinstance(buffer.action_space, spaces.Discrete)
    actions = flat(buffer.actions).long().flatten() if discrete else flat(buffer.actions).float()
    done = torch.as_tensor(np.concatenate([buffer.episode_starts[1:], last_dones[None]]) > 0, device=buffer.device)
    with torch.no_grad():
        starts = range(0, n_steps * n_envs, chunk_size)
        rows = [tree_map(lambda part, at=start: part[at : at + chunk_size], observations) for start in starts]
        values = by_time(torch.cat([critic(part) for part in rows]))
        next_values = torch.cat([values[1:], critic(to_tensor(last_observations))[None]])
        terminated = done.clone()
        if recorder.truncated:
            steps, envs, ends = zip(*recorder.truncated, strict=True)
            next_values[steps, envs] = critic(to_tensor(tree_map(lambda *parts: np.stack(parts), *ends)))
            terminated[steps, envs] = False
        rewards = torch.as_tensor(recorder.stacked_rewards(), device=buffer.device)
        advantages = generalized_advantage_estimation(
            rewards, values, next_values, terminated, done, buffer.gamma, buffer.gae_lambda
        )
    extrinsic = (part.t().reshape(-1) for part in (values, advantages, advantages + values))
    own = (flat(part) for part in (buffer.values, buffer.log_probs, buffer.advantages))
    discount = buffer.gamma * buffer.gae_lambda * (~done).to(values.dtype)
    return LearnedRewardRollout(Samples(observations, actions, *own, *extrinsic), discount, rewards, done)
