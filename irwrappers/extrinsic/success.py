"""Definitions of success, and which episodes have succeeded."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.vector import VectorEnv

from irwrappers.extrinsic.vector import VectorReward, VectorStep
from irwrappers.validation import check_number

SUCCESS = "is_success"  # the entry of ``info`` with whether this episode has succeeded yet
Predicate = Callable[[Any, Any, Any, Any, Any, Any, dict[str, Any]], Any]


class Criterion:
    """A definition of success: an entry of ``info``, a reward of at least ``threshold``, or a predicate.

    Args:
        success: name of the entry of ``info``.
        threshold: the least reward that means success.
        predicate: a function of a step. At most one of the three is given; else it is ``info["is_success"]``.
    """

    def __init__(self, success: str | None, threshold: float | None, predicate: Predicate | None) -> None:
        given = {"success": success, "threshold": threshold, "predicate": predicate}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"Success is defined by one of success, threshold and predicate; got {given}.")
        if success is not None and not isinstance(success, str):
            raise ValueError(f"success must be the name of an entry of info, got {success!r}.")
        if threshold is not None:
            check_number("threshold", threshold, "the least reward that means success")
        if predicate is not None and not callable(predicate):
            raise ValueError(
                "predicate must be a function (obs, action, next_obs, reward, terminated, truncated, info) -> bool, got "
                f"{predicate!r}."
            )
        self.key, self.threshold, self.predicate = success or SUCCESS, threshold, predicate

    def is_success(self, before: Any, action: Any, after: Any, reward: float, *ends_and_info: Any) -> bool:
        """Return whether a step ``(obs, action, next_obs, reward, terminated, truncated, info)`` is a success."""
        if self.predicate is not None:
            return bool(self.predicate(before, action, after, reward, *ends_and_info))
        if self.threshold is not None:
            return reward >= self.threshold
        info = ends_and_info[-1]
        if self.key not in info:
            raise self._missing(info)
        return bool(info[self.key])

    def are_successes(self, before: Any, step: VectorStep) -> np.ndarray:
        """Return bool ``[n]``; values of environments that were only reset are arbitrary."""
        if self.predicate is not None:
            given = self.predicate(
                before, step.actions, step.next_observations, step.rewards, step.terminated, step.truncated, step.infos
            )
            if np.shape(given) != step.stepped.shape:
                raise ValueError(
                    f"The predicate of a vector wrapper receives batches and must return {step.stepped.shape} truth values, "
                    f"one for each environment; it returned {given!r}."
                )
            return np.asarray(given, dtype=bool)
        if self.threshold is not None:
            return step.rewards >= self.threshold
        infos = step.infos
        if self.key not in infos or (step.stepped & ~infos.get(f"_{self.key}", step.stepped)).any():
            raise self._missing(infos)
        return infos[self.key].astype(bool)

    def _missing(self, info: dict[str, Any]) -> ValueError:
        keys = sorted(str(key) for key in info if not str(key).startswith("_"))
        return ValueError(
            f"success={self.key!r} is not an entry of this step's info, which has {keys}. Name one that every step has, or "
            f"give a threshold of the reward or a predicate; for an entry that some steps have, predicate=lambda *step: "
            f"step[-1].get({self.key!r}, False)."
        )


class Episode:
    """Number of steps of the current episode of a single environment, and whether it has succeeded.

    Args:
        criterion: the definition of success.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.steps = 0
        self.succeeded = False
        self._before: Any = None

    def begin(self, observation: Any) -> None:
        """Start an episode with its first observation."""
        self.steps, self.succeeded = 0, False
        self._remember(observation)

    def first_success(self, action: Any, observation: Any, reward: float, *ends_and_info: Any) -> bool:
        """Add a step; return whether it is the episode's first success."""
        success = self.criterion.is_success(self._before, action, observation, reward, *ends_and_info)
        first = success and not self.succeeded
        self.succeeded = self.succeeded or success
        self.steps += 1
        self._remember(observation)
        return first

    def _remember(self, observation: Any) -> None:
        if self.criterion.predicate is not None:
            self._before = deepcopy(observation)


class VectorSuccess(VectorReward[ObsType, ActType]):
    """A vector wrapper that counts the steps of each episode and whether it has succeeded.

    Args:
        env: the vector environment.
        criterion: the definition of success.
    """

    def __init__(self, env: VectorEnv[ObsType, ActType, np.ndarray], criterion: Criterion) -> None:
        super().__init__(env)
        self._criterion = criterion
        self._remembers = criterion.predicate is not None
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._succeeded = np.zeros(self.num_envs, dtype=bool)

    def _begin(self, begun: np.ndarray, observations: Any) -> None:
        self._steps[begun], self._succeeded[begun] = 0, False

    def _first_success(self, step: VectorStep) -> np.ndarray:
        """Add a step; return bool ``[n]``, where it is the first success of the episode."""
        success = self._criterion.are_successes(self._before, step) & step.stepped
        first = success & ~self._succeeded
        self._succeeded = self._succeeded | success
        self._steps += step.stepped
        step.notes[SUCCESS] = self._succeeded
        return first
