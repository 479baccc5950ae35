"""Returns, advantages and surrogate batches of a rollout, for K policies at once.

Layout: ``[T, …]`` time first; ``[K, M]`` one row for each policy over its M = T · n transitions (invalid ones masked).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from sb3_ext.common.episode_rollout import EpisodeRollout
from sb3_ext.common.gae import discounted_sum, generalized_advantage_estimation
from sb3_ext.common.optimizers import Params
from sb3_ext.common.repeated_rows import GroupedRows, group_rows
from sb3_ext.irpo.gradient import SurrogateBatch
from sb3_ext.irpo.policies import IRPOPolicy

EXTRINSIC, INTRINSIC = 0, 1  # the two heads of critics and advantages


class PolicyBatch(NamedTuple):
    """A rollout as a batch for each of the K policies: its own environments, or all of them if one policy collected it.

    Attributes:
        rollout: the rollout; ``rollout.n_policies`` is K, or 1 where every policy learns from all transitions.
        states: distinct observations, preprocessed.
        pairs: distinct (observation, action) pairs.
        valid: bool ``[K, M]``, the transitions that count.
        old_log_prob: ``[K, R]``, log-probability of each pair under the policy that collected it.
    """

    rollout: EpisodeRollout
    states: GroupedRows
    pairs: GroupedRows
    valid: Tensor
    old_log_prob: Tensor

    @property
    def n_policies(self) -> int:
        return len(self.valid)

    def per_policy(self, x: Tensor) -> Tensor:
        """``[T, E]`` → ``[T, K, n]``."""
        groups = self.rollout.n_policies
        return x.view(len(x), groups, -1).expand(-1, self.n_policies, -1)

    def flat(self, x: Tensor) -> Tensor:
        """``[T, ..., K, n]`` → ``[..., K, M]``."""
        return x.movedim(0, -2).flatten(-2)

    def unflat(self, x: Tensor) -> Tensor:
        """``[..., K, M]`` → ``[T, ..., K, n]``."""
        return x.unflatten(-1, (len(self.rollout.rewards), -1)).movedim(-2, 0)

    def surrogate(self, advantages: Tensor) -> SurrogateBatch:
        """Return the surrogate batch of each policy for advantages ``[K, M]``."""
        share = self.valid.to(advantages.dtype) / self.valid.sum(1, keepdim=True)
        observations, actions = self.pairs.rows
        return SurrogateBatch(
            observations, actions, self.pairs.add_up(advantages * share), self.pairs.add_up(share), self.old_log_prob
        )

    def mean_episode_return(self, rewards: Tensor, gamma: float) -> Tensor:
        """Return the mean of Σ_t γ^t r_t over the whole episodes of each policy: ``rewards`` ``[T, K, n]`` → ``[K]``."""
        done = self.per_policy(self.rollout.done)
        to_go = discounted_sum(rewards, gamma * (~done).to(rewards.dtype))
        starts = torch.cat([torch.ones_like(done[:1]), done[:-1]]) & self.per_policy(self.rollout.valid)
        return (to_go * starts).sum((0, 2)) / starts.sum((0, 2))

    def returns_to_go(self, gamma: float) -> Tensor:
        """Return the discounted extrinsic returns ``[K, M]``, without critic or normalisation."""
        rewards, done = self.per_policy(self.rollout.rewards), self.per_policy(self.rollout.done)
        return self.flat(discounted_sum(rewards, gamma * (~done).to(rewards.dtype)))

    def as_one_policy(self) -> PolicyBatch:
        """Return the batch with all transitions in one row, for a rollout that one policy collected."""
        if self.rollout.n_policies == 1:
            states, pairs = self.states.first(), self.pairs.first()
            return PolicyBatch(self.rollout, states, pairs, self.valid[:1], self.old_log_prob[:1])

        def merged(part: GroupedRows) -> GroupedRows:
            index = part.index + part.n_rows * torch.arange(self.n_policies, device=part.index.device)[:, None]
            return GroupedRows(tree_map(lambda x: x.flatten(0, 1)[None], part.rows), self.merged(index))

        rollout = replace(self.rollout, n_policies=1)
        old_log_prob = self.old_log_prob.flatten()[None]
        return PolicyBatch(rollout, merged(self.states), merged(self.pairs), self.merged(self.valid), old_log_prob)

    def merged(self, x: Tensor) -> Tensor:
        """Rearrange ``[K, M]`` to ``[1, K · M]`` as in :meth:`as_one_policy`; the mean over K if all have all rows."""
        if self.rollout.n_policies == 1:
            return x.mean(0, keepdim=True)
        return self.unflat(x).flatten()[None]

    def rewarded(self) -> Tensor:
        """Return bool ``[K]``: whether the batch of each policy contains any extrinsic reward."""
        return ((self.flat(self.per_policy(self.rollout.rewards)) != 0) & self.valid).any(1)


def make_policy_batch(rollout: EpisodeRollout, policy: IRPOPolicy, params: Params) -> PolicyBatch:
    """Return the batch of each policy from a rollout.

    Args:
        rollout: of K policies, or of one.
        policy: the module whose ``actor`` evaluates ``params``.
        params: the K policies ``[K, ...]`` that collected the rollout; equal ones if one policy did.
    """
    n_policies = len(next(iter(params.values())))
    groups = rollout.n_policies

    def to_groups(x: Tensor) -> Tensor:  # [T, E, ...] -> [groups, M, ...]
        return x.unflatten(1, (groups, -1)).movedim(1, 0).flatten(1, 2)

    valid = to_groups(rollout.valid)
    observations = tree_map(to_groups, rollout.observations)
    states = group_rows(observations, valid)
    pairs = group_rows((observations, to_groups(rollout.actions)), valid)
    states = GroupedRows(_preprocess(policy, states.rows), states.index).expand(n_policies)
    pairs = GroupedRows((_preprocess(policy, pairs.rows[0]), pairs.rows[1]), pairs.index).expand(n_policies)
    with torch.no_grad():
        old_log_prob = policy.distribution.log_prob(vmap(policy.actor)(params, pairs.rows[0]), pairs.rows[1])
    return PolicyBatch(rollout, states, pairs, valid.expand(n_policies, -1), old_log_prob)


def _preprocess(policy: IRPOPolicy, rows: Any) -> Any:
    """Preprocess observations ``[G, R, ...]`` as SB3 does."""
    leading: list[int] = []

    def merge(x: Tensor) -> Tensor:
        leading[:] = x.shape[:2]
        return x.flatten(0, 1)

    flat = policy.preprocess(tree_map(merge, rows))
    return tree_map(lambda x: x.unflatten(0, tuple(leading)), flat)


class Advantages(NamedTuple):
    """Advantages and targets of the two heads, extrinsic first.

    Attributes:
        normalized: advantages ``[2, K, M]``, normalised if that was asked for.
        targets: λ-returns ``[2, K, M]``.
    """

    normalized: Tensor
    targets: Tensor


@torch.no_grad()
def estimate_advantages(
    batch: PolicyBatch,
    intrinsic_rewards: Tensor,
    critic: Callable[[Any], Tensor],
    *,
    gammas: tuple[float, float],
    gae_lambda: float,
    normalize: bool,
    next_states: GroupedRows | None,
) -> Advantages:
    """Return the generalised advantages of both heads for every policy.

    Args:
        batch: of the K policies.
        intrinsic_rewards: ``[T, K, n]``, policy k's own channel.
        critic: preprocessed rows ``[K, R, ...]`` → values ``[2, K, R]``.
        gammas: extrinsic and intrinsic discount.
        gae_lambda: λ of both heads.
        normalize: whether advantages get mean 0 and deviation 1 over each policy's batch.
        next_states: rows of the next observations to bootstrap truncated episodes from; ``None`` counts truncation as the
            end (the paper's form).
    """

    def values_of(states: GroupedRows) -> Tensor:  # [T, 2, K, n]
        rows = critic(states.rows)
        return batch.unflat(rows.gather(2, states.index.expand(2, -1, -1)))

    rollout = batch.rollout
    values = values_of(batch.states)
    rewards = torch.stack([batch.per_policy(rollout.rewards).to(values.dtype), intrinsic_rewards.to(values.dtype)], 1)
    done = batch.per_policy(rollout.done).unsqueeze(1).expand_as(values)
    if next_states is None:
        next_values, terminated = torch.cat([values[1:], torch.zeros_like(values[:1])]), done
    else:
        next_values = values_of(next_states)
        terminated = batch.per_policy(rollout.terminated).unsqueeze(1).expand_as(values)
    advantages = torch.empty_like(values)
    for head, gamma in enumerate(gammas):
        advantages[:, head] = generalized_advantage_estimation(
            rewards[:, head], values[:, head], next_values[:, head], terminated[:, head], done[:, head], gamma, gae_lambda
        )
    targets = batch.flat(advantages + values)
    flat = batch.flat(advantages)
    return Advantages(_normalize(flat, batch.valid) if normalize else flat, targets)


def _normalize(x: Tensor, valid: Tensor) -> Tensor:
    """Normalise to mean 0 and (unbiased) deviation 1 over the valid entries of each policy."""
    count = valid.sum(-1, keepdim=True)
    mean = (x * valid).sum(-1, keepdim=True) / count
    variance = (((x - mean) * valid) ** 2).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return (x - mean) / (variance.sqrt() + 1e-8)
