"""Rollouts of whole episodes from reset, of one or several policies side by side."""

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
    """Rollout of T steps in E environments; policy p acted in the environments p·n … (p+1)·n − 1, where n = E / n_policies.

    Attributes:
        observations: ``[T, E, ...]``, inputs of the policies; a tensor or a dict of them.
        next_observations: ``[T, E, ...]``, observations after each step, before any reset.
        raw_observations: observations before any ``VecNormalize``; without one the same tensors.
        raw_next_observations: next observations before any ``VecNormalize``.
        actions: ``[T, E, n_actions]``, as the policies sampled them.
        rewards: ``[T, E]``, the environment's own.
        terminated: bool ``[T, E]``.
        truncated: bool ``[T, E]``.
        valid: bool ``[T, E]``, the transitions that count: each environment's whole episodes up to the one with which it
            has enough steps.
        n_policies: number of policies.
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
        """bool ``[T, E]``, where an episode ended."""
        return self.terminated | self.truncated

    def transitions(self, action_space: spaces.Space) -> Transitions:
        """Return the transitions of which an intrinsic reward is computed, with original observations."""
        actions = self.actions.squeeze(-1) if isinstance(action_space, spaces.Discrete) else self.actions
        return Transitions(
            self.raw_observations, actions, self.raw_next_observations, self.terminated, self.truncated, self.valid
        )


def env_actions(space: spaces.Space, actions: np.ndarray) -> np.ndarray:
    """Return a policy's actions ``[n, n_actions]`` in the form of the environment; Box actions are clipped."""
    if isinstance(space, spaces.Box):
        return np.clip(actions, space.low, space.high)
    if isinstance(space, spaces.Discrete):
        return actions[:, 0]
    return actions.astype(space.dtype)


def concatenate_policies(rollouts: list[EpisodeRollout]) -> EpisodeRollout:
    """Join rollouts of one policy each to one of several policies; shorter ones are padded with invalid steps."""
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
        steps, n_envs = rollout.valid.shape
        valid[:steps, column : column + n_envs] = rollout.valid
        column += n_envs
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
    """Run each environment of ``env`` from reset until it has at least ``min_steps`` steps of whole episodes.

    An environment that has enough steps continues (a ``VecEnv`` cannot step a subset), but its further transitions are not
    valid: among the episodes begun then, short ones would end in time more often.

    Args:
        env: the parallel environments.
        act: observations ``[E, ...]`` → (actions as the policy sampled them ``[E, n_actions]``, actions for the environment).
        on_step: called after each step with ``new_obs, rewards, dones, infos, actions``; False stops the collection.
        n_policies: number of policies whose actions ``act`` returns.
        min_steps: B / n for a batch of B transitions in n environments.
        device: of the rollout's tensors.

    Returns:
        the rollout, or None if ``on_step`` returned False.

    Raises:
        ValueError: for NaN or infinite rewards or observations, with environment and step.
        RuntimeError: if episodes do not end.
    """
    view = OriginalView(env)
    observations, raw = view.reset()
    finite = FiniteCheck(observations)
    finite.observations(raw, "after reset")
    n_envs = env.num_envs
    length = np.zeros(n_envs, dtype=np.int64)  # steps of whole episodes in each environment
    steps: list[tuple[Any, ...]] = []
    give_up = 10 * min_steps + 10_000
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
                f"No episode of environment {int(length.argmin())} ended within {len(steps)} steps; only whole episodes are "
                "collected, so the environment needs a time limit: gymnasium.make(..., max_episode_steps=...)."
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
        rewards=rewards_.to(torch.get_default_dtype()),  # worker processes send float64
        terminated=terminated_,
        truncated=truncated_,
        valid=torch.as_tensor(valid, device=device),
        n_policies=n_policies,
    )


def _stack(values: list[Any], device: torch.device) -> Any:
    if isinstance(values[0], dict):
        return {key: _stack([value[key] for value in values], device) for key in values[0]}
    return torch.as_tensor(np.stack(values), device=device)
