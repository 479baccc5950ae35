"""Record the extrinsic reward, and how episodes ended, while SB3 collects a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize
from torch import Tensor
from torch.utils._pytree import tree_map

from irwrappers import VecIntrinsicReward
from irwrappers.wrappers.bonus import EXTRINSIC


class ExtrinsicRecorder(VecEnvWrapper):
    """Record extrinsic rewards and truncated episodes, and return ``coef`` times the reward of ``venv``.

    Where a ``VecIntrinsicReward`` beneath adds a bonus, the returned reward includes the bonus and the recorded one does not.
    SB3 bootstraps the returned reward of truncated episodes with the policy's critic; the recorded one can be bootstrapped
    with V^ex.

    Args:
        venv: the algorithm's environment.
        coef: factor of the returned reward.

    Attributes:
        rewards: extrinsic rewards ``[B]`` of each step.
        truncated: (step, environment, terminal observation) of each truncated episode.
        original_observations: after :meth:`record_originals`, unnormalised observations before each step and, last, after the
            last step; empty without a ``VecNormalize``.
        original_rewards: unnormalised extrinsic rewards ``[B]`` of each step, likewise.
    """

    def __init__(self, venv: VecEnv, coef: float) -> None:
        super().__init__(venv)
        self._coef = coef
        self._around_bonus: VecNormalize | None = None  # its units are those of the extrinsic reward too
        while isinstance(venv, VecEnvWrapper) and not isinstance(venv, VecIntrinsicReward):
            self._around_bonus = venv if isinstance(venv, VecNormalize) else self._around_bonus
            venv = venv.venv
        self._originals_of: VecNormalize | None = None
        self.rewards: list[np.ndarray] = []
        self.truncated: list[tuple[int, int, Any]] = []
        self.original_observations: list[Any] = []
        self.original_rewards: list[np.ndarray] = []

    def record_originals(self, last_observations: Any) -> None:
        """Record unnormalised observations and rewards too, from the next step on, if there is a ``VecNormalize``.

        Args:
            last_observations: normalised observations before the next step.
        """
        self._originals_of = unwrap_vec_normalize(self.venv)
        if self._originals_of is not None:
            self.original_observations.append(self._originals_of.unnormalize_obs(last_observations))

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        truncated, extrinsic = read_infos(dones, infos)
        self.truncated += [(len(self.rewards), i, last) for i, last in truncated]
        original = extrinsic
        if extrinsic is None:
            extrinsic = rewards
        elif self._around_bonus is not None:
            extrinsic = self._around_bonus.normalize_reward(extrinsic)
        if self._originals_of is not None:
            self.original_observations.append(self._originals_of.get_original_obs())
            self.original_rewards.append(self._originals_of.get_original_reward() if original is None else original)
        self.rewards.append(np.array(extrinsic, dtype=np.float32))
        return observations, rewards if self._coef == 1 else self._coef * rewards, dones, infos

    def stacked_rewards(self) -> np.ndarray:
        """Return all extrinsic rewards ``[T, B]``.

        Raises:
            ValueError: some are NaN or infinite.
        """
        rewards = np.stack(self.rewards)
        if not np.isfinite(rewards).all():
            raise ValueError("The environment returned NaN or infinite rewards.")
        return rewards

    def stacked_originals(self, device: torch.device) -> tuple[Any, Tensor] | None:
        """Return unnormalised observations ``[B, T, …]`` and rewards ``[B, T]``, or None if they were not recorded."""
        if not self.original_observations:
            return None

        def stacked(*steps: np.ndarray) -> Tensor:
            column = torch.as_tensor(np.stack(steps, 1), device=device)
            return column.float() if column.is_floating_point() else column

        return tree_map(stacked, *self.original_observations[:-1]), stacked(*self.original_rewards)


def read_infos(dones: np.ndarray, infos: Sequence[dict[str, Any]]) -> tuple[list[tuple[int, Any]], np.ndarray | None]:
    """Return what SB3's ``infos`` of one step say about truncation and about a bonus.

    Args:
        dones: bool ``[B]``.
        infos: one dict for each environment.

    Returns:
        (environment, terminal observation) of each truncated episode, and extrinsic rewards ``[B]`` where a
        ``VecIntrinsicReward`` has added a bonus to them, else None.
    """
    truncated = []
    for i in np.flatnonzero(dones).tolist():
        last = infos[i].get("terminal_observation")
        if last is not None and infos[i].get("TimeLimit.truncated", False):
            truncated.append((i, last))
    extrinsic = np.array([info[EXTRINSIC] for info in infos]) if infos and EXTRINSIC in infos[0] else None
    return truncated, extrinsic
