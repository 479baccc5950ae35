"""Record the transitions of an SB3 rollout loop as the environment itself gave them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch.utils._pytree import tree_map

from irwrappers.transitions.episode_ends import EpisodeEnds
from irwrappers.transitions.finite import FiniteCheck
from irwrappers.transitions.transitions import Transitions
from irwrappers.transitions.unnormalized import OriginalView


class TransitionRecorder(VecEnvWrapper):
    """Step ``venv`` unchanged and record the transitions beneath any ``VecNormalize``, whose statistics go on being updated.

    Args:
        venv: the algorithm's environment, reset.
        last_observations: its latest observations.

    Attributes:
        rewards: ``[B]`` for each step so far, as the algorithm gets them.

    Raises:
        ValueError: NaN or infinite rewards or observations, named with environment and step.
    """

    def __init__(self, venv: VecEnv, last_observations: Any) -> None:
        super().__init__(venv)
        self._view = OriginalView(venv)
        self._observations = [self._original(last_observations)]  # those before each step and, one more, after the last
        self._next_observations: list[Any] = []  # those that each step led to: the same but where an episode ended
        self._finite = FiniteCheck(self._observations[0])
        self._finite.observations(self._observations[0], "at the beginning")
        self.rewards: list[np.ndarray] = []
        self._steps: list[tuple[np.ndarray, ...]] = []  # actions, terminated, truncated, valid

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        with self._view.terminals_kept():
            observations, rewards, dones, infos = self.venv.step_wait()
        self._finite.rewards(rewards, len(self._steps))
        self.rewards.append(np.array(rewards))
        original = self._original(observations)
        self._finite.observations(original, f"at step {len(self._steps)}")
        ends = EpisodeEnds(dones, infos)
        # A vector environment that can only reset within a step shows that step; nothing happened in it.
        self._steps.append((self._actions, ends.terminated, ends.truncated, ~ends.reset_steps))
        self._observations.append(original)
        self._next_observations.append(ends.next_observations(original, original=True))
        return observations, rewards, dones, infos

    def _original(self, observations: Any) -> Any:
        """Return a copy: a ``VecEnv`` may write the next observations into the same array."""
        if self._view.normalize is not None:
            return self._view.normalize.get_original_obs()
        return tree_map(np.array, observations)

    def transitions(self, device: torch.device) -> Transitions:
        """Return all steps so far, ``[T, B, …]``."""
        observations = _stack(self._observations[:-1], device)
        next_observations = _stack(self._next_observations, device)
        actions, terminated, truncated, valid = (_stack(list(column), device) for column in zip(*self._steps, strict=True))
        return Transitions(observations, actions, next_observations, terminated, truncated, None if valid.all() else valid)


def _stack(rows: list[Any], device: torch.device) -> Any:
    if isinstance(rows[0], dict):
        return {key: _stack([row[key] for row in rows], device) for key in rows[0]}
    return torch.as_tensor(np.stack(rows), device=device)
