"""The transitions that an SB3 rollout loop takes, as the environment itself gave them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch.utils._pytree import tree_map

from irwrappers.transitions.finite import FiniteCheck
from irwrappers.transitions.transitions import Transitions
from irwrappers.transitions.unnormalized import OriginalView


class TransitionRecorder(VecEnvWrapper):
    """Steps ``venv`` as it is and remembers the transitions beneath any ``VecNormalize``, whose statistics go on learning.

    Args:
        venv: the algorithm's environment, reset.
        last_observations: what it showed last.

    Attributes:
        rewards: ``[B]`` for each step so far, as the algorithm gets them.

    Raises:
        ValueError: NaN or infinite rewards or observations, named with copy and step.
    """

    def __init__(self, venv: VecEnv, last_observations: Any) -> None:
        super().__init__(venv)
        self._view = OriginalView(venv)
        self._observations = [self._original(last_observations)]
        self._finite = FiniteCheck(self._observations[0])
        self._finite.observations(self._observations[0], "at the beginning")
        self.rewards: list[np.ndarray] = []
        self._terminal: list[tuple[int, int, Any]] = []  # step, copy, the observation that ended the episode
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
        ended = np.flatnonzero(dones)
        self._terminal += [(len(self._steps), i, self._view.original_terminal(infos[i])) for i in ended.tolist()]
        truncated = np.zeros(len(dones), dtype=bool)
        truncated[ended] = [infos[i].get("TimeLimit.truncated", False) for i in ended]
        # A vector environment that can only reset within a step shows that step (see GymnasiumVecEnv): nothing happened in it.
        valid = np.array([not info.get("reset_step", False) for info in infos])
        self._steps.append((self._actions, dones & ~truncated, truncated, valid))
        self._observations.append(original)
        return observations, rewards, dones, infos

    def _original(self, observations: Any) -> Any:
        """A copy: a ``VecEnv`` may write the next observations into the same array."""
        if self._view.normalize is not None:
            return self._view.normalize.get_original_obs()
        return tree_map(np.array, observations)

    def transitions(self, device: torch.device) -> Transitions:
        """All steps so far, ``[T, B, …]``."""
        observations = _stack(self._observations[:-1], device)
        next_observations = _stack(self._observations[1:], device)
        for step, copy, last in self._terminal:
            _put(next_observations, step, copy, last)
        actions, terminated, truncated, valid = (_stack(list(column), device) for column in zip(*self._steps, strict=True))
        return Transitions(observations, actions, next_observations, terminated, truncated, None if valid.all() else valid)


def _stack(rows: list[Any], device: torch.device) -> Any:
    if isinstance(rows[0], dict):
        return {key: _stack([row[key] for row in rows], device) for key in rows[0]}
    return torch.as_tensor(np.stack(rows), device=device)


def _put(observations: Any, step: int, copy: int, one: Any) -> None:
    if isinstance(observations, dict):
        for key, part in observations.items():
            _put(part, step, copy, one[key])
    else:
        observations[step, copy] = torch.as_tensor(one)
