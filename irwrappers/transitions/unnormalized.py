"""Observations and rewards of the environment itself, beneath any ``VecNormalize``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize

from irwrappers.transitions.episode_ends import ORIGINAL_TERMINAL, TERMINAL


class _TerminalKeeper(VecEnvWrapper):
    """Keep terminal observations before ``VecNormalize`` overwrites them; its clipping cannot be undone afterwards."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        for index in np.flatnonzero(dones):
            infos[index][ORIGINAL_TERMINAL] = infos[index][TERMINAL]
        return observations, rewards, dones, infos


@contextmanager
def frozen_statistics(normalize: VecNormalize | None) -> Iterator[None]:
    """Freeze the running statistics of ``normalize`` within the block, in resets and steps."""
    if normalize is None:
        yield
        return
    training, normalize.training = normalize.training, False
    try:
        yield
    finally:
        normalize.training = training


class OriginalView:
    """Step a ``VecEnv`` with frozen statistics and return original observations and rewards beside what the policy sees.

    Without a ``VecNormalize`` the two are the same. The statistics are frozen only for the duration of a call.

    Args:
        env: the environment.

    Attributes:
        normalize: the ``VecNormalize`` in it, or None.
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.normalize = unwrap_vec_normalize(env)
        self._keeper = _TerminalKeeper(self.normalize.venv) if self.normalize is not None else None

    def reset(self) -> tuple[Any, Any]:
        """Reset and return observations as the policy sees them, and original ones."""
        with frozen_statistics(self.normalize):
            observations = self.env.reset()
        return observations, observations if self.normalize is None else self.normalize.get_original_obs()

    def step(self, actions: np.ndarray) -> tuple[Any, Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step and return (observations, original observations, original rewards, dones, infos)."""
        if self.normalize is None:
            observations, rewards, dones, infos = self.env.step(actions)
            return observations, observations, rewards, dones, infos
        with frozen_statistics(self.normalize), self.terminals_kept():
            observations, _, dones, infos = self.env.step(actions)
        return observations, self.normalize.get_original_obs(), self.normalize.get_original_reward(), dones, infos

    @contextmanager
    def terminals_kept(self) -> Iterator[None]:
        """Within the block, steps add the original terminal observation to ``infos``, as ``original_terminal_observation``.

        It stays there; :class:`~irwrappers.transitions.EpisodeEnds` reads it.
        """
        if self.normalize is None or self._keeper is None:
            yield
            return
        venv, self.normalize.venv = self.normalize.venv, self._keeper
        try:
            yield
        finally:
            self.normalize.venv = venv
