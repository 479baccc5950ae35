"""Ids ``lifetime/…`` of families of tasks, for YAML files and commands.

* ``lifetime/PointGoal-v0``, ``lifetime/PointGoalUpper-v0`` - ``envs.tasks.PointGoal``, the whole circle and its upper half;
* ``lifetime/ML1-<task>-v3`` - ``envs.tasks.MetaWorldML1(<task>)``, for each of Meta-World's tasks;
* ``lifetime/ML10-v3``, ``lifetime/ML45-v3`` - ``envs.tasks.MetaWorldML10`` and ``MetaWorldML45``.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from envs import tasks
from envs.catalogue import METAWORLD_TASKS
from sb3_ext.meta.baselines.trial_vec_env import TrialVecEnv
from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv

NAMESPACE = "lifetime/"


def lifetime_ids() -> list[str]:
    """Return all ids."""
    many = [f"{NAMESPACE}ML1-{task}-v3" for task in METAWORLD_TASKS]
    return [f"{NAMESPACE}PointGoal-v0", f"{NAMESPACE}PointGoalUpper-v0", *many, f"{NAMESPACE}ML10-v3", f"{NAMESPACE}ML45-v3"]


def make_family(env_id: str, split: str = "train", **kwargs: Any) -> Any:
    """Return the ``envs.tasks.TaskDistribution`` of an id.

    Args:
        env_id: one of :func:`lifetime_ids`.
        split: ``"train"`` or ``"test"``.
        **kwargs: further arguments of the family.

    Raises:
        ValueError: for another id.
    """
    if env_id not in lifetime_ids():
        raise ValueError(
            f"{env_id!r} is no family of tasks; expected one of {NAMESPACE}PointGoal-v0, {NAMESPACE}PointGoalUpper-v0, "
            f"{NAMESPACE}ML1-<task>-v3, {NAMESPACE}ML10-v3, {NAMESPACE}ML45-v3."
        )
    name = env_id.removeprefix(NAMESPACE)
    if name in ("PointGoal-v0", "PointGoalUpper-v0"):
        return tasks.PointGoal(split, upper_half=name.startswith("PointGoalUpper"), **kwargs)
    if name.startswith("ML1-"):
        return tasks.MetaWorldML1(name.removeprefix("ML1-").removesuffix("-v3"), split, **kwargs)
    return {"ML10-v3": tasks.MetaWorldML10, "ML45-v3": tasks.MetaWorldML45}[name](split, **kwargs)


def is_lifetime(env_id: str) -> bool:
    """Return whether an id is that of a family."""
    return env_id.startswith(NAMESPACE)


def make_lifetimes(env_id: str, n_lifetimes: int = 30, split: str = "train", **kwargs: Any) -> LifetimeVecEnv:
    """Return lifetimes of a family.

    Args:
        env_id: one of :func:`lifetime_ids`.
        n_lifetimes: number of parallel lifetimes.
        split: ``"train"`` or ``"test"``.
        **kwargs: further arguments of ``LifetimeVecEnv``.
    """
    return LifetimeVecEnv(make_family(env_id, split), n_lifetimes, **kwargs)


def make_trials(env_id: str, n_trials: int = 30, split: str = "train", **kwargs: Any) -> TrialVecEnv:
    """Return trials of a family.

    Args:
        env_id: one of :func:`lifetime_ids`.
        n_trials: number of parallel trials.
        split: ``"train"`` or ``"test"``.
        **kwargs: further arguments of ``TrialVecEnv``.
    """
    return TrialVecEnv(make_family(env_id, split), n_trials, **kwargs)


class LifetimeEnv(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """One lifetime at a time as a Gymnasium environment, made by ``gym.make`` of these ids.

    Observations and action are those of :class:`~sb3_ext.meta.LifetimeVecEnv`.

    Args:
        env_id: one of :func:`lifetime_ids`.
        split: ``"train"`` or ``"test"``.
        **kwargs: further arguments of ``LifetimeVecEnv``.
    """

    def __init__(self, env_id: str, split: str = "train", **kwargs: Any) -> None:
        self._lifetimes = make_lifetimes(env_id, 1, split, **kwargs)
        self.observation_space, self.action_space = self._lifetimes.observation_space, self._lifetimes.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._lifetimes.seed(seed)
        return self._first(self._lifetimes.reset()), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        observations, rewards, dones, infos = self._lifetimes.step(np.asarray(action)[None])
        done, info = bool(dones[0]), infos[0]
        observation = info.pop("terminal_observation") if done else self._first(observations)
        return observation, float(rewards[0]), done, False, info

    def close(self) -> None:
        self._lifetimes.close()

    @staticmethod
    def _first(observations: Any) -> dict[str, np.ndarray]:
        return {name: part[0] for name, part in observations.items()}


def register_lifetimes() -> None:
    """Register the ids with Gymnasium, unless they are registered already."""
    for env_id in lifetime_ids():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point="sb3_ext.zoo.lifetime_families:LifetimeEnv", kwargs={"env_id": env_id})
