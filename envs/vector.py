"""``BatchedEnv``: the base of all native vector environments.

Autoreset modes, a seed and a generator for each environment, ``reset_mask``, the time limit, the goal that may be ignored,
frames and the layout of ``info`` are here. A subclass gives the single environment whose vectorised form it is, and defines
how episodes begin, how n environments are stepped, and what is observed. Its n environments then have, bit for bit, the
trajectories of n single environments under the same seeds and actions (``SyncVectorEnv``), whatever the autoreset mode.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.action_checks import check_actions, check_discretes
from envs.reset_options import ResetOptions


class BatchedEnv(VectorEnv):
    """``num_envs`` environments of one task under a time limit, stepped together.

    Args:
        num_envs: number of environments n.
        single: a single environment of the task, from which the spaces, the ``metadata`` and the render mode are read. It is
            neither stepped nor kept here; a subclass that needs it later keeps it.
        max_episode_steps: time limit of an episode in steps, ``None`` for none.
        autoreset_mode: ``NEXT_STEP`` (Gymnasium's default), ``SAME_STEP`` or ``DISABLED``; a constructor argument because
            ``gym.make_vec`` takes no ``vector_kwargs`` for native vector environments.
    """

    def __init__(
        self,
        num_envs: int,
        single: gym.Env,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = single.render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**single.metadata, "autoreset_mode": self.autoreset_mode, "independent_envs": True}
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        self.observation_space = batch_space(single.observation_space, num_envs)
        self.action_space = batch_space(single.action_space, num_envs)
        self._action_meaning = getattr(single, "action_meaning", None)

        self._seeds: list[int | None] = [None] * num_envs
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._done = np.zeros(num_envs, dtype=bool)
        self._ignore_goal = np.zeros(num_envs, dtype=bool)
        self._all = np.ones(num_envs, dtype=bool)

    # --- what a subclass defines

    @abstractmethod
    def _begin(self, indices: np.ndarray, options: dict[str, Any]) -> None:
        """Start a new episode in the environments ``indices``; each samples from its own generator, ``self._rng(index)``."""

    @abstractmethod
    def _advance(self, actions: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step all environments, or those in ``active`` (bool ``[n]``; the others are reset next, so they may be stepped too
        where that is cheaper).

        Returns:
            float64 ``[n]`` rewards, bool ``[n]`` terminated, bool ``[n]`` success; the arrays become the caller's.
        """

    @abstractmethod
    def _observe(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the observations of the environments ``indices``, in a new array."""

    def _frame(self, index: int) -> Any:
        """Return the frame of environment ``index``."""
        raise NotImplementedError

    def _extra_info(self) -> dict[str, np.ndarray]:
        """Return what ``info`` holds besides ``is_success``, after a reset as after a step: new arrays ``[n, …]``."""
        return {}

    # --- what a subclass may use

    def _reward_at_goal(self, at_goal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rewards, terminated and success (see :meth:`_advance`) of a task whose goal gives reward 1 and ends the
        episode, from bool ``[n]`` ``at_goal``."""
        success = at_goal & ~self._ignore_goal
        return success.astype(np.float64), success, success.copy()

    def _rng(self, index: int) -> np.random.Generator:
        """Return the generator of environment ``index``."""
        rng = self._rngs[index]
        if rng is None:  # made when it is first used: many tasks never sample, and a generator costs 10 µs
            rng, self._seeds[index] = gym.utils.seeding.np_random(self._seeds[index])
            self._rngs[index] = rng
        return rng

    def _check_actions(self, actions: Any) -> np.ndarray:
        """Return actions as an array ``[n, …]`` of the action space, or raise a ValueError."""
        space = self.single_action_space
        if isinstance(space, spaces.Discrete):
            meaning = self._action_meaning or f"an integer from {space.start} to {space.start + space.n - 1}"
            return check_discretes(actions, self.num_envs, space, meaning)
        return check_actions(actions, self.action_space.shape or ())

    # --- Gymnasium's interface

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        options = options or {}
        mask = self._check_mask(options.get("reset_mask", self._all))
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else seed
        if seeds is not None:
            if len(seeds) != self.num_envs:
                raise ValueError(f"Expected one seed for each of the {self.num_envs} environments, got {len(seeds)}.")
            for index in np.flatnonzero(mask).tolist():
                if seeds[index] is not None:
                    self._seeds[index], self._rngs[index] = seeds[index], None
        self._reset_where(mask, options)
        return self._observe(), self._info(np.zeros(self.num_envs, dtype=bool), mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        actions = self._check_actions(actions)
        resetting = None
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._done.any():
            resetting = self._done.copy()
        elif self.autoreset_mode is AutoresetMode.DISABLED and self._done.any():
            raise RuntimeError(
                f"Environments {np.flatnonzero(self._done).tolist()} are done; with autoreset_mode=DISABLED reset them first: "
                "reset(options={'reset_mask': done})."
            )

        rewards, terminated, success = self._advance(actions, None if resetting is None else ~resetting)
        self._elapsed += 1
        truncated = self._elapsed >= self.max_episode_steps if self.max_episode_steps else np.zeros(self.num_envs, dtype=bool)
        if resetting is not None:
            self._reset_where(resetting, {})
            rewards[resetting] = 0.0
            for flags in (terminated, success, truncated):
                flags &= ~resetting
        self._done = terminated | truncated

        observations = self._observe()
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._done.any():
            ended = np.flatnonzero(self._done)
            final = self._final(ended, observations, success)
            success = success & ~self._done  # info holds the reset's info where an episode just ended
            self._reset_where(self._done.copy(), {})
            observations[ended] = self._observe(ended)
            return observations, rewards, terminated, truncated, self._info(success, self._all) | final
        return observations, rewards, terminated, truncated, self._info(success, self._all)

    def render(self) -> tuple[Any, ...] | None:
        if self.render_mode != "rgb_array":
            return None
        return tuple(self._frame(index) for index in range(self.num_envs))

    # --- the rest

    def _reset_where(self, mask: np.ndarray, options: dict[str, Any]) -> None:
        self._elapsed[mask] = 0
        self._done[mask] = False
        self._ignore_goal[mask] = ResetOptions.read(options).ignore_goal
        self._begin(np.flatnonzero(mask), options)

    def _info(self, success: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Return the info of the environments in ``mask`` in Gymnasium's layout: zeros for the others."""
        info: dict[str, Any] = {}
        for key, value in {"is_success": success, **self._extra_info()}.items():
            if not mask.all():
                value = value.copy()
                value[~mask] = 0
            info[key], info["_" + key] = value, mask.copy()
        return info

    def _final(self, ended: np.ndarray, observations: np.ndarray, success: np.ndarray) -> dict[str, Any]:
        """Return what SAME_STEP mode reports of the episodes that just ended, before their environments are reset."""
        final_obs = np.full(self.num_envs, None, dtype=object)
        for index, observation in zip(ended, observations[ended], strict=True):  # a new array: those rows are overwritten
            final_obs[index] = observation
        return {
            "final_obs": final_obs,
            "_final_obs": self._done.copy(),
            "final_info": self._info(success, self._done),
            "_final_info": self._done.copy(),
        }

    def _check_mask(self, mask: Any) -> np.ndarray:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(f"options['reset_mask'] must be a bool array of shape ({self.num_envs},), got {mask!r}.")
        return mask.copy()
