"""Collecting whole episodes from reset with one or several policies side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from irwrappers.transitions import EpisodeEnds, FiniteCheck, OriginalView, Transitions

Observations = Any  # a tensor [T, E, ...] or a dict of them


@dataclass
class EpisodeRollout:
    """T steps of E copies; policy p stepped the copies p·n … (p+1)·n − 1, where n = E / n_policies.

    ``valid`` marks the transitions that count: for each copy its whole episodes up to the one with which it had enough.
    Observations are those the policy saw; ``raw_…`` those of the environment before any ``VecNormalize`` (the same
    tensors without one). Rewards are always the environment's own.

    Shapes: observations ``[T, E, ...]``, actions ``[T, E, n_actions]``, the rest ``[T, E]``.
    """

    observations: Observations
    next_observations: Observations
    raw_observations: Observations
    raw_next_observations: Observations
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    n_policies: int

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated

    def transitions(self, action_space: spaces.Space) -> Transitions:
        """What an intrinsic reward is computed from: the environment's own observations."""
        actions = self.actions.squeeze(-1) if isinstance(action_space, spaces.Discrete) else self.actions
        return Transitions(
            self.raw_observations, actions, self.raw_next_observations, self.terminated, self.truncated, self.valid
        )


def env_actions(space: spaces.Space, actions: np.ndarray) -> np.ndarray:
    """A policy's actions ``[n, n_actions]`` as the environment takes them: Box actions clipped."""
    if isinstance(space, spaces.Box):
        return np.clip(actions, space.low, space.high)
    if isinstance(space, spaces.Discrete):
        return actions[:, 0]
    return actions.astype(space.dtype)


def concatenate_policies(rollouts: list[EpisodeRollout]) -> EpisodeRollout:
    """One rollout of ``len(rollouts)`` policies from rollouts of one policy each, shorter ones padded with invalid steps."""
    if len(rollouts) == 1:
        return rollouts[0]
    length = max(len(rollout.rewards) for rollout in rollouts)

    def pad(x: Tensor) -> Tensor:
        return torch.cat([x, x[:1].expand(length - len(x), *x.shape[1:])]) if len(x) < length else x

    def join(field: str) -> Any:
        return tree_map(lambda *xs: torch.cat([pad(x) for x in xs], dim=1), *[getattr(rollout, field) for rollout in rollouts])

    valid = torch.zeros((length, sum(rollout.valid.shape[1] for rollout in rollouts)), dtype=torch.bool)
    valid = valid.to(rollouts[0].valid.device)
    column = 0
    for rollout in rollouts:
        steps, copies = rollout.valid.shape
        valid[:steps, column : column + copies] = rollout.valid
        column += copies
    fields = ("observations", "next_observations", "raw_observations", "raw_next_observations")
    tensors = ("actions", "rewards", "terminated", "truncated")
    return EpisodeRollout(**{name: join(name) for name in (*fields, *tensors)}, valid=valid, n_policies=len(rollouts))


def collect_episodes(
    env: VecEnv,
    act: Callable[[Any], tuple[np.ndarray, np.ndarray]],
    on_step: Callable[[dict[str, Any]], bool],
    *,
    n_policies: int,
    min_steps: int,
    device: torch.device,
) -> EpisodeRollout | None:
    """Run every copy of ``env`` from reset until it holds at least ``min_steps`` steps of whole episodes.

    A copy that is there early goes on (a ``VecEnv`` cannot step a subset), and what it adds is left out: of the episodes
    begun then, the short ones would be over in time more often.

    Args:
        act: observations ``[E, ...]`` → (actions as the policy chose them ``[E, n_actions]``, actions for the environment).
        on_step: called after each step with ``new_obs, rewards, dones, infos``; False stops the collection.
        min_steps: B / n for a batch of B transitions over n copies.

    Returns:
        the rollout, or ``None`` when ``on_step`` stopped it.

    Raises:
        ValueError: NaN or infinite rewards or observations, named with copy and step.
        RuntimeError: when episodes do not end.
    """
    view = OriginalView(env)
    observations, raw = view.reset()
    finite = FiniteCheck(observations)
    finite.observations(raw, "after reset")
    n_envs = env.num_envs
    length = np.zeros(n_envs, dtype=np.int64)  # steps of whole episodes that each copy holds
    steps: list[tuple[Any, ...]] = []
    give_up = 10 * min_steps + 100_000
    while length.min() < min_steps:
        actions, env_actions = act(observations)
        new_observations, new_raw, rewards, dones, infos = view.step(env_actions)
        finite.rewards(rewards, len(steps))
        finite.observations(new_raw, f"at step {len(steps)}")

        ends = EpisodeEnds(dones, infos)
        next_observations = next_raw = ends.next_observations(new_observations)
        if view.normalize is not None:
            next_raw = ends.next_observations(new_raw, original=True)
        if len(ends.indices):
            finite.observations(next_raw, f"at step {len(steps)}")
            length[ends.indices] = np.where(length[ends.indices] < min_steps, len(steps) + 1, length[dones])
        flags = ends.terminated, ends.truncated
        steps.append((observations, next_observations, raw, next_raw, actions, rewards, *flags))
        if not on_step({"new_obs": new_observations, "rewards": rewards, "dones": dones, "infos": infos, "actions": actions}):
            return None
        if len(steps) > give_up:
            raise RuntimeError(
                f"No episode of copy {int(length.argmin())} ended within {len(steps)} steps; whole episodes are collected "
                "here, so the environment needs a time limit: gymnasium.make(..., max_episode_steps=...)."
            )
        observations, raw = new_observations, new_raw

    valid = np.arange(len(steps))[:, None] < length
    columns = [[step[i] for step in steps] for i in range(8)]
    seen, following, actions_, rewards_, terminated_, truncated_ = (_stack(columns[i], device) for i in (0, 1, 4, 5, 6, 7))
    original, original_following = seen, following
    if view.normalize is not None:
        original, original_following = (_stack(columns[i], device) for i in (2, 3))
    return EpisodeRollout(
        observations=seen,
        next_observations=following,
        raw_observations=original,
        raw_next_observations=original_following,
        actions=actions_,
        rewards=rewards_,
        terminated=terminated_,
        truncated=truncated_,
        valid=torch.as_tensor(valid, device=device),
        n_policies=n_policies,
    )


def _stack(values: list[Any], device: torch.device) -> Any:
    if isinstance(values[0], dict):
        return {key: _stack([value[key] for value in values], device) for key in values[0]}
    return torch.as_tensor(np.stack(values), device=device)
