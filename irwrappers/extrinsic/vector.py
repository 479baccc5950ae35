"""The base of the vector forms: which sub-environments took a step, which start an episode, and their infos."""

from __future__ import annotations

from abc import abstractmethod
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.core import ActType, ObsType
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

ORIGINAL = "original_reward"  # the entry of ``info`` with the environment's own reward


@dataclass
class VectorStep:
    """One step of n sub-environments, as it was before any reset.

    Args:
        space: observation space of a single environment.
        actions: of the step.
        returned: observations that the vector environment returned.
        rewards: float64 ``[n]``.
        terminated: bool ``[n]``; a wrapper may set more, which ends those episodes.
        truncated: bool ``[n]``.
        stepped: bool ``[n]``, False for an environment that was reset in this step instead (``NEXT_STEP``).
        reset_already: bool ``[n]``, True where ``returned`` is the first observation of a new episode (``SAME_STEP``).
        returned_infos: infos that the vector environment returned.
        notes: arrays ``[n]`` to be added to the infos of the environments that took a step.
    """

    space: spaces.Space
    actions: Any
    returned: Any
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    stepped: np.ndarray
    reset_already: np.ndarray
    returned_infos: dict[str, Any]
    notes: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def done(self) -> np.ndarray:
        """bool ``[n]``: the episode ended with this step."""
        return self.terminated | self.truncated

    @cached_property
    def next_observations(self) -> Any:
        """The batch of observations that the actions led to."""
        if not self.reset_already.any():
            return self.returned
        n = len(self.stepped)
        rows = list(iterate(batch_space(self.space, n), self.returned))
        for index in np.flatnonzero(self.reset_already).tolist():
            rows[index] = self.returned_infos["final_obs"][index]
        empty: Any = create_empty_array(self.space, n)
        return concatenate(self.space, rows, empty)

    @cached_property
    def infos(self) -> dict[str, Any]:
        """The batched infos that the actions led to."""
        if not self.reset_already.any():
            return self.returned_infos
        others = select_infos(_without_final(self.returned_infos), ~self.reset_already)
        return join_infos(others, self.returned_infos.get("final_info", {}))


class VectorReward(VectorWrapper[ObsType, ActType, ObsType, ActType, np.ndarray], gym.utils.RecordConstructorArgs):
    """The base of vector wrappers that compute rewards from the steps of each episode.

    Rewards and infos are those of a ``SyncVectorEnv`` of single environments with the single wrapper. The step in which
    ``NEXT_STEP`` resets an environment is not counted; ``reset(options={"reset_mask": mask})`` starts episodes in those
    environments only. Subclasses define :meth:`_begin` and :meth:`_compute_rewards`.

    Args:
        env: the vector environment.
    """

    _remembers = False  # whether a subclass uses ``_before``, the observations before the step

    def __init__(self, env: VectorEnv[ObsType, ActType, np.ndarray]) -> None:
        super().__init__(env)
        if "autoreset_mode" not in env.metadata:
            single = type(self).__name__.removeprefix("Vector")
            raise ValueError(
                f"{env} has no metadata['autoreset_mode']; expected how it resets its environments, an "
                f"AutoresetMode. Set it, or wrap the single environments in {single}."
            )
        self.autoreset_mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._resetting = np.zeros(self.num_envs, dtype=bool)  # environments whose next step is a reset
        self._before: Any = None

    @abstractmethod
    def _begin(self, begun: np.ndarray, observations: Any) -> None:
        """Start episodes in the environments ``begun`` (bool ``[n]``) with these rows of ``observations``."""

    @abstractmethod
    def _compute_rewards(self, step: VectorStep) -> np.ndarray:
        """Return the rewards ``[n]`` of a step; those of environments that have not ``stepped`` are not used."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        begun = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        observations, infos = super().reset(seed=seed, options=options)  # first, because it checks the mask
        self._resetting = self._resetting & ~begun
        self._begin(begun, observations)
        self._remember(observations)
        return observations, infos

    def step(self, actions: ActType) -> tuple[ObsType, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = super().step(actions)
        rewards, terminated = np.array(rewards, dtype=np.float64), np.array(terminated, dtype=bool)
        done, resetting = terminated | truncated, self._resetting
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        step = VectorStep(
            space=self.single_observation_space,
            actions=actions,
            returned=observations,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            stepped=~resetting,
            reset_already=done & same_step,
            returned_infos=infos,
        )
        given = np.where(step.stepped, self._compute_rewards(step), 0.0)
        infos = _add_notes(infos, step)
        if same_step and (ended := step.done & ~done).any():
            observations, infos = self._end(ended, observations, infos)
        begun = step.done if same_step else resetting
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._resetting = step.done
        if begun.any():
            self._begin(begun, observations)
        self._remember(observations)
        return observations, given, step.terminated, truncated, infos

    def _remember(self, observations: Any) -> None:
        if self._remembers:
            self._before = deepcopy(observations)

    def _end(self, ended: np.ndarray, observations: Any, infos: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Reset environments whose episodes the wrapper has ended, as ``SAME_STEP`` does."""
        final_obs = infos.get("final_obs", np.full(self.num_envs, None, dtype=object)).copy()
        rows = list(iterate(self.observation_space, observations))
        for index in np.flatnonzero(ended).tolist():
            final_obs[index] = deepcopy(rows[index])
        steps = _without_final(infos)
        finished = infos.get("_final_obs", np.zeros(self.num_envs, dtype=bool)) | ended
        final = {
            "final_obs": final_obs,
            "_final_obs": finished,
            "final_info": join_infos(infos.get("final_info", {}), select_infos(steps, ended)),
            "_final_info": finished.copy(),
        }
        observations, reset_infos = self.env.reset(options={"reset_mask": ended.copy()})
        return observations, join_infos(select_infos(steps, ~ended), reset_infos) | final

    def _check_can_end_episodes(self) -> None:
        base = self.env.unwrapped
        independent = isinstance(base, (SyncVectorEnv, AsyncVectorEnv)) or self.metadata.get("independent_envs", False)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP or not independent:
            single = type(self).__name__.removeprefix("Vector")
            raise ValueError(
                f"{self.env} in autoreset mode {self.autoreset_mode.name} can't reset a sub-environment whose episode it has "
                "not ended itself. Expected SAME_STEP or DISABLED, and a SyncVectorEnv, an AsyncVectorEnv or an environment "
                f"with metadata['independent_envs'] = True. Wrap the single environments in {single} instead: "
                f"gym.make_vec(id, num_envs, vectorization_mode='sync', wrappers=[{single}])."
            )


def _without_final(infos: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in infos.items() if key.removeprefix("_") not in ("final_obs", "final_info")}


def _add_notes(infos: dict[str, Any], step: VectorStep) -> dict[str, Any]:
    """Return infos with the notes and the original rewards; those of an ended episode are in ``final_info``."""
    infos = _noted(infos, step, step.stepped & ~step.reset_already)
    if step.reset_already.any():
        infos["final_info"] = _noted(infos.get("final_info", {}), step, step.reset_already)
    return infos


def _noted(infos: dict[str, Any], step: VectorStep, mask: np.ndarray) -> dict[str, Any]:
    if not mask.any():
        return dict(infos)
    infos = join_infos(infos, {k: v for key, values in step.notes.items() for k, v in _entry(key, values, mask).items()})
    # An existing entry is that of a wrapper beneath this one, nearer to the environment.
    missing = mask & ~infos.get(f"_{ORIGINAL}", np.zeros_like(mask))
    return join_infos(infos, _entry(ORIGINAL, step.rewards, missing)) if missing.any() else infos


def _entry(key: str, values: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values of the environments in ``mask`` in the layout of a vector environment's infos."""
    return {key: np.where(mask, values, np.zeros((), values.dtype)), f"_{key}": mask.copy()}


def _owners(infos: dict[str, Any], key: str, n: int) -> np.ndarray:
    """Return which environments have an entry ``key``; all, if a native environment writes no mask."""
    return infos.get(f"_{key}", np.ones(n, dtype=bool))


def _keys(infos: dict[str, Any]) -> list[str]:
    return [key for key in infos if not (key.startswith("_") and key[1:] in infos)]


def select_infos(infos: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Return batched infos of only the environments in ``mask`` (bool ``[n]``)."""
    chosen: dict[str, Any] = {}
    for key in _keys(infos):
        value, owners = infos[key], _owners(infos, key, len(mask)) & mask
        if not owners.any():
            continue
        if isinstance(value, dict):
            value = select_infos(value, mask)
        elif isinstance(value, np.ndarray):
            value = value.copy()
            value[~owners] = None if value.dtype == object else 0
        chosen[key], chosen[f"_{key}"] = value, owners
    return chosen


def join_infos(infos: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Return batched infos in which entries of ``others`` replace those of the same environments."""
    joined = dict(infos)
    for key in _keys(others):
        value, mask = others[key], others.get(f"_{key}")
        if key in infos and mask is not None:
            if isinstance(value, dict):
                value = join_infos(infos[key], value)
            elif isinstance(value, np.ndarray):
                value, new = infos[key].copy(), value
                value[mask] = new[mask]
            mask = mask | _owners(infos, key, len(mask))
        joined[key] = value
        if mask is not None:
            joined[f"_{key}"] = mask
    return joined
