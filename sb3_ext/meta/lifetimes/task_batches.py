"""B environments of a family of tasks, stepped together.

They are one vectorised environment where the family has one, else single environments in this process or in several.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from irwrappers.extrinsic import SuccessSignal, VectorSuccessSignal
from sb3_ext.meta.lifetimes.worker_processes import WorkerProcesses


class TaskStep(NamedTuple):
    """Result of a step of B environments.

    Attributes:
        observations: the next ones ``[B, n_obs]``, after the reset where an episode ended.
        signal: reward of ``irwrappers.SuccessSignal`` ``[B]``.
        shaped: dense reward, ``info["shaped_reward"]`` ``[B]``; NaN without one.
        done: whether an episode ended, bool ``[B]``.
        success: whether the episode of this step has succeeded so far, bool ``[B]``.
    """

    observations: np.ndarray
    signal: np.ndarray
    shaped: np.ndarray
    done: np.ndarray
    success: np.ndarray


class TaskBatch(ABC):
    """B environments with one task each."""

    @abstractmethod
    def begin(self, tasks: Sequence[Any], seeds: Sequence[int]) -> np.ndarray:
        """Set the tasks, reset all environments (also while a step is pending) and return observations ``[B, n_obs]``.

        Args:
            tasks: one for each environment.
            seeds: one for each environment.
        """

    @abstractmethod
    def send(self, actions: np.ndarray) -> None:
        """Begin a step of all environments with ``actions`` ``[B, …]``; worker processes run it meanwhile."""

    @abstractmethod
    def receive(self) -> TaskStep:
        """Return the result of the step that was sent; an episode that ends is followed by the next one."""

    def step(self, actions: np.ndarray) -> TaskStep:
        """Send a step and return its result."""
        self.send(actions)
        return self.receive()

    @abstractmethod
    def close(self) -> None:
        """Close environments and processes."""


class NativeTasks(TaskBatch):
    """All tasks in one vectorised environment, ``gym.make_vec`` of the family's id.

    Args:
        env_kwargs: arguments of the environment beside those of the tasks.
    """

    def __init__(self, env_kwargs: dict[str, Any]) -> None:
        self._env_kwargs = env_kwargs
        self._envs: VectorSuccessSignal | None = None

    def begin(self, tasks: Sequence[Any], seeds: Sequence[int]) -> np.ndarray:
        self.close()
        names = set().union(*(task.env_kwargs for task in tasks))
        arguments = {name: [task.env_kwargs[name] for task in tasks] for name in names}
        envs = gym.make_vec(
            tasks[0].env_id,
            num_envs=len(tasks),
            vectorization_mode="vector_entry_point",
            autoreset_mode=AutoresetMode.SAME_STEP,
            **{**arguments, **self._env_kwargs},
        )
        self._envs = VectorSuccessSignal(envs)
        observations, _ = self._envs.reset(seed=list(seeds))  # type: ignore[arg-type]  # a seed for each environment
        return observations.reshape(len(tasks), -1)

    def send(self, actions: np.ndarray) -> None:
        self._actions = actions

    def receive(self) -> TaskStep:
        assert self._envs is not None
        observations, signal, terminated, truncated, infos = self._envs.step(self._actions)
        done = terminated | truncated
        shaped, success = np.full(len(done), np.nan), np.array(infos["is_success"], dtype=bool)
        if "shaped_reward" in infos:
            shaped[:] = infos["shaped_reward"]
        if done.any():
            if "shaped_reward" in infos["final_info"]:
                shaped[done] = infos["final_info"]["shaped_reward"][done]
            success[done] = infos["final_info"]["is_success"][done]
        return TaskStep(observations.reshape(len(done), -1), signal, shaped, done, success)

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()
            self._envs = None


class LoopedTasks(TaskBatch):
    """Single environments, stepped in a loop; one that can change its task is used again (``TaskDistribution.retask``).

    Args:
        family: an ``envs.tasks.TaskDistribution``.
        env_kwargs: arguments of every environment beside those of its task.
    """

    def __init__(self, family: Any, env_kwargs: dict[str, Any]) -> None:
        self._family, self._env_kwargs = family, env_kwargs
        self._envs: list[gym.Env] = []
        self._spare: list[gym.Env] = []  # of kinds of tasks that were not sampled this time

    def begin(self, tasks: Sequence[Any], seeds: Sequence[int]) -> np.ndarray:
        spare, self._envs = self._envs + self._spare, []
        for task in tasks:
            env = next((one for one in spare if self._family.retask(one, task)), None)
            if env is None:
                env = SuccessSignal(self._family.make(task, **self._env_kwargs))
            else:
                spare.remove(env)
            self._envs.append(env)
        self._spare = spare[: len(tasks)]  # the latest; one of Meta-World's holds 18 MB
        for env in spare[len(tasks) :]:
            env.close()
        return np.stack([env.reset(seed=seed)[0].ravel() for env, seed in zip(self._envs, seeds, strict=True)])

    def send(self, actions: np.ndarray) -> None:
        self._actions = actions

    def receive(self) -> TaskStep:
        rows = []
        for env, action in zip(self._envs, self._actions, strict=True):
            observation, signal, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            row = (signal, info.get("shaped_reward", np.nan), done, info["is_success"])
            rows.append((env.reset()[0] if done else observation, *row))
        observations, signals, shaped, done_, success = zip(*rows, strict=True)
        return TaskStep(
            np.stack([observation.ravel() for observation in observations]),
            np.array(signals, dtype=np.float64),
            np.array(shaped, dtype=np.float64),
            np.array(done_, dtype=bool),
            np.array(success, dtype=bool),
        )

    def close(self) -> None:
        for env in self._envs + self._spare:
            env.close()
        self._envs, self._spare = [], []


class ProcessTasks(TaskBatch):
    """:class:`LoopedTasks` in several processes, each with its share of the environments; the same trajectories.

    Args:
        family: an ``envs.tasks.TaskDistribution``.
        env_kwargs: arguments of every environment beside those of its task.
        n_jobs: number of processes.

    Raises:
        RuntimeError: for an error in a process, with its traceback; all processes are ended then.
    """

    def __init__(self, family: Any, env_kwargs: dict[str, Any], n_jobs: int) -> None:
        self._workers = WorkerProcesses(n_jobs, LoopedTasks, family, env_kwargs)
        self._shares: list[slice] = []

    def begin(self, tasks: Sequence[Any], seeds: Sequence[int]) -> np.ndarray:
        bounds = np.linspace(0, len(tasks), self._workers.n + 1).round().astype(int)
        self._shares = [slice(start, end) for start, end in pairwise(bounds)]
        self._ask("begin", [(list(tasks[share]), list(seeds[share])) for share in self._shares])
        return np.concatenate(self._workers.answers())

    def send(self, actions: np.ndarray) -> None:
        self._ask("step", [(actions[share],) for share in self._shares])

    def receive(self) -> TaskStep:
        return TaskStep(*(np.concatenate(parts) for parts in zip(*self._workers.answers(), strict=True)))

    def _ask(self, method: str, arguments: list[tuple[Any, ...]]) -> None:
        self._workers.ask(method, [given if len(given[0]) else None for given in arguments])  # none for an empty share

    def close(self) -> None:
        self._workers.close()


def make_task_batch(family: Any, env_kwargs: dict[str, Any] | None = None, n_jobs: int = 1) -> TaskBatch:
    """Return the fastest form for a family.

    Args:
        family: an ``envs.tasks.TaskDistribution``.
        env_kwargs: arguments of every environment beside those of its task.
        n_jobs: number of processes, for families without a vectorised environment.
    """
    given = dict(env_kwargs or {})
    if family.has_vector_form:
        return NativeTasks(given)
    return ProcessTasks(family, given, n_jobs) if n_jobs > 1 else LoopedTasks(family, given)


def flat_actions(space: spaces.Space, actions: np.ndarray) -> np.ndarray:
    """Return actions as vectors ``[B, n_actions]``, discrete ones one-hot: ``spaces.flatten`` of each.

    Args:
        space: of one action.
        actions: ``[B, ...]``.
    """
    columns = actions.reshape(len(actions), -1)
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return columns
    sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec.ravel()
    return np.concatenate([np.eye(size)[column] for size, column in zip(sizes, columns.T.astype(int), strict=True)], 1)
