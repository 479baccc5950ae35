"""``BatchedEnv``: what every natively vectorised environment here has in common.

Autoreset modes, a seed and a generator for each copy, ``reset_mask``, the time limit and the layout of ``info`` are here;
a subclass says how episodes begin, what one step does to all copies, and what is observed. n copies then give the
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

from envs.action_checks import check_render_mode


class BatchedEnv(VectorEnv):
    """``num_envs`` copies of one task under a time limit, stepped at once.

    Args:
        num_envs: number of copies n.
        observation_space, action_space: those of a single environment.
        metadata: the single environment's ``metadata``.
        max_episode_steps: time limit of an episode, ``None`` for none.
        render_mode: ``None`` or ``"rgb_array"``.
        autoreset_mode: ``NEXT_STEP`` (Gymnasium's default), ``SAME_STEP`` or ``DISABLED``; a constructor argument because
            ``gym.make_vec`` takes no ``vector_kwargs`` for native vector environments.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        metadata: dict[str, Any],
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        check_render_mode(render_mode)
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**metadata, "autoreset_mode": self.autoreset_mode, "independent_copies": True}
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)

        self._seeds: list[int | None] = [None] * num_envs
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._done = np.zeros(num_envs, dtype=bool)
        self._everyone = np.ones(num_envs, dtype=bool)

    # --- what a subclass says

    @abstractmethod
    def _begin(self, copies: np.ndarray, options: dict[str, Any]) -> None:
        """Start a new episode in ``copies`` (indices); what is drawn comes from ``self._rng(index)``, copy by copy."""

    @abstractmethod
    def _advance(self, actions: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step of all copies, or of those in ``active`` (bool ``[n]``; the others are reset next, so they may be stepped
        too where that is cheaper).

        Returns:
            float64 ``[n]`` rewards, bool ``[n]`` terminated, bool ``[n]`` success; the arrays become the caller's.
        """

    @abstractmethod
    def _observe(self, copies: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The observations of ``copies``, in an array of its own."""

    def _extra_info(self) -> dict[str, np.ndarray]:
        """What ``info`` holds besides ``is_success``, after a reset as after a step: arrays ``[n, …]`` of their own."""
        return {}

    def _check_actions(self, actions: Any) -> np.ndarray:
        """Actions as an array ``[n, …]`` of the action space, or a ValueError; finite ``Box`` actions by default."""
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape or not np.issubdtype(actions.dtype, np.number):
            raise ValueError(
                f"Expected actions of shape {self.action_space.shape}, got shape {actions.shape} of {actions.dtype}."
            )
        if not np.isfinite(actions).all():
            bad = int(np.argwhere(~np.isfinite(actions))[0][0])
            raise ValueError(f"Invalid action {actions[bad]} for copy {bad}; expected finite numbers.")
        return actions

    # --- Gymnasium's interface

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        options = options or {}
        mask = self._check_mask(options.get("reset_mask", self._everyone))
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else seed
        if seeds is not None:
            if len(seeds) != self.num_envs:
                raise ValueError(f"Expected one seed for each of the {self.num_envs} copies, got {len(seeds)}.")
            for index in np.flatnonzero(mask).tolist():
                if seeds[index] is not None:
                    self._seeds[index], self._rngs[index] = seeds[index], None
        self._reset_copies(mask, options)
        return self._observe(), self._info(np.zeros(self.num_envs, dtype=bool), mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        actions = self._check_actions(actions)
        resetting = None
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._done.any():
            resetting = self._done.copy()
        elif self.autoreset_mode is AutoresetMode.DISABLED and self._done.any():
            raise RuntimeError(
                f"Copies {np.flatnonzero(self._done).tolist()} are done; with autoreset_mode=DISABLED reset them first: "
                "reset(options={'reset_mask': done})."
            )

        rewards, terminated, success = self._advance(actions, None if resetting is None else ~resetting)
        self._elapsed += 1
        truncated = self._elapsed >= self.max_episode_steps if self.max_episode_steps else np.zeros(self.num_envs, dtype=bool)
        if resetting is not None:
            self._reset_copies(resetting, {})
            rewards[resetting] = 0.0
            for flags in (terminated, success, truncated):
                flags &= ~resetting
        self._done = terminated | truncated

        observations = self._observe()
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._done.any():
            ended = np.flatnonzero(self._done)
            final = self._final(ended, observations, success)
            success = success & ~self._done  # the reset's info stands in info for a copy that just ended
            self._reset_copies(self._done.copy(), {})
            observations[ended] = self._observe(ended)
            return observations, rewards, terminated, truncated, self._info(success, self._everyone) | final
        return observations, rewards, terminated, truncated, self._info(success, self._everyone)

    # --- the machinery

    def _reset_copies(self, mask: np.ndarray, options: dict[str, Any]) -> None:
        self._elapsed[mask] = 0
        self._done[mask] = False
        self._begin(np.flatnonzero(mask), options)

    def _rng(self, index: int) -> np.random.Generator:
        rng = self._rngs[index]
        if rng is None:  # made on the first draw: many tasks never draw, and a generator costs 10 µs
            rng, self._seeds[index] = gym.utils.seeding.np_random(self._seeds[index])
            self._rngs[index] = rng
        return rng

    def _info(self, success: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """The info of the copies in ``mask`` in Gymnasium's layout: zeros for the others."""
        info: dict[str, Any] = {}
        for key, value in {"is_success": success, **self._extra_info()}.items():
            if not mask.all():
                value = value.copy()
                value[~mask] = 0
            info[key], info["_" + key] = value, mask.copy()
        return info

    def _final(self, ended: np.ndarray, observations: np.ndarray, success: np.ndarray) -> dict[str, Any]:
        """What SAME_STEP mode tells of the episodes that just ended, before their copies are reset."""
        final_obs = np.full(self.num_envs, None, dtype=object)
        for index, observation in zip(ended, observations[ended], strict=True):  # a copy: those rows are overwritten
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
