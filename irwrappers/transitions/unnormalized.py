"""What the environment itself said, beneath any ``VecNormalize``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize

_KEY = "original_terminal_observation"


class _TerminalKeeper(VecEnvWrapper):
    """Notes terminal observations before ``VecNormalize`` overwrites them; its clipping cannot be undone afterwards."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        for index in np.flatnonzero(dones):
            infos[index][_KEY] = infos[index]["terminal_observation"]
        return observations, rewards, dones, infos


@contextmanager
def frozen_statistics(normalize: VecNormalize | None) -> Iterator[None]:
    """Within the block resets and steps leave the running statistics alone."""
    if normalize is None:
        yield
        return
    training, normalize.training = normalize.training, False
    try:
        yield
    finally:
        normalize.training = training


class OriginalView:
    """Steps a ``VecEnv`` with frozen statistics and gives original observations and rewards beside what the policy sees.

    Without a ``VecNormalize`` the two are the same. The statistics are frozen, and the keeper of terminal observations is
    in place, only while a call lasts: callbacks find the environment as they know it.
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.normalize = unwrap_vec_normalize(env)
        self._keeper = _TerminalKeeper(self.normalize.venv) if self.normalize is not None else None

    def reset(self) -> tuple[Any, Any]:
        """Observations as the policy sees them, and original ones."""
        with frozen_statistics(self.normalize):
            observations = self.env.reset()
        return observations, observations if self.normalize is None else self.normalize.get_original_obs()

    def step(self, actions: np.ndarray) -> tuple[Any, Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """(observations, original observations, original rewards, dones, infos)."""
        if self.normalize is None:
            observations, rewards, dones, infos = self.env.step(actions)
            return observations, observations, rewards, dones, infos
        with frozen_statistics(self.normalize), self.terminals_kept():
            observations, _, dones, infos = self.env.step(actions)
        return observations, self.normalize.get_original_obs(), self.normalize.get_original_reward(), dones, infos

    @contextmanager
    def terminals_kept(self) -> Iterator[None]:
        """Within the block a step notes what :meth:`original_terminal` gives."""
        if self.normalize is None or self._keeper is None:
            yield
            return
        venv, self.normalize.venv = self.normalize.venv, self._keeper
        try:
            yield
        finally:
            self.normalize.venv = venv

    @staticmethod
    def original_terminal(info: dict[str, Any]) -> Any:
        """The original terminal observation of a copy whose episode ended."""
        return info.get(_KEY, info["terminal_observation"])
