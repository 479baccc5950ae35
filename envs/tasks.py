"""Families of tasks for meta-learning: ``PointGoal``, ``MetaWorldML1``, ``MetaWorldML10``, ``MetaWorldML45``.

A family samples tasks and makes their environments; a task is plain data, so that it can be hashed, sent to a worker, or
written to JSON and read back:

>>> import dataclasses, json, numpy as np
>>> from envs.tasks import PointGoal, PointGoalTask
>>> family = PointGoal(split="train")
>>> task = family.sample(np.random.default_rng(0))
>>> PointGoalTask(**json.loads(json.dumps(dataclasses.asdict(task)))) == task
True
>>> env = family.make(task)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.action_checks import check_integer

__all__ = [
    "MetaWorldGoal",
    "MetaWorldML1",
    "MetaWorldML10",
    "MetaWorldML45",
    "PointGoal",
    "PointGoalTask",
    "TaskDistribution",
]

ARCS = 16  # arcs of PointGoal's circle
TEST_EVERY = 4  # one arc in so many is for testing: the second, so that none of the upper half lies at its edge


class Task(ABC):
    """A task of a family, as plain data."""

    @property
    @abstractmethod
    def env_id(self) -> str:
        """The registered id of its environment."""

    @property
    @abstractmethod
    def env_kwargs(self) -> dict[str, Any]:
        """The arguments of ``gym.make`` that make that environment this task."""


T = TypeVar("T", bound=Task)


class TaskDistribution(ABC, Generic[T]):
    """A family of tasks, of which a meta-learner is trained on the ``"train"`` split and tested on the ``"test"`` split.

    All environments of a family have the same ``observation_space`` and ``action_space``, and ``info["is_success"]``; most
    meta-training needs a dense reward too, ``info["shaped_reward"]``.

    Args:
        split: ``"train"`` or ``"test"``; no task is in both.

    Attributes:
        tasks: all tasks of the split, in a fixed order, if there are finitely many; else ``None``.
    """

    tasks: tuple[T, ...] | None = None

    def __init__(self, split: str = "train") -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
        self.split = split

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> T:
        """Return a task of the split, sampled uniformly with ``rng``."""

    def make(self, task: T, **kwargs: Any) -> gym.Env:
        """Return the environment of ``task``, made by ``gym.make`` with its registered time limit.

        Args:
            task: one of the family's tasks.
            **kwargs: further arguments of ``gym.make``.
        """
        return gym.make(task.env_id, **{**task.env_kwargs, **kwargs})

    def retask(self, env: gym.Env, task: T) -> bool:
        """Give an environment that :meth:`make` made another task from its next reset on, which may be much cheaper than
        making one. Return False where that is not possible; the environment is then unchanged."""
        return False

    @property
    def has_vector_form(self) -> bool:
        """Whether ``gym.make_vec`` steps many tasks of the family together, with a list for each of their arguments."""
        return False

    @property
    def observation_space(self) -> spaces.Space:
        """The observation space of all environments of the family."""
        return self._spaces[0]

    @property
    def action_space(self) -> spaces.Space:
        """The action space of all environments of the family."""
        return self._spaces[1]

    @property
    @abstractmethod
    def _example_id(self) -> str:
        """The id of one of the family's environments."""

    @cached_property
    def _spaces(self) -> tuple[spaces.Space, spaces.Space]:
        env = gym.make(self._example_id)
        env.close()
        return env.observation_space, env.action_space


@dataclass(frozen=True)
class PointGoalTask(Task):
    """``sparse/PointGoal-v0`` with a given goal.

    Args:
        goal_angle: the goal's place on the circle, in radians.
    """

    goal_angle: float

    @property
    def env_id(self) -> str:
        return "sparse/PointGoal-v0"

    @property
    def env_kwargs(self) -> dict[str, Any]:
        return {"goal_angle": self.goal_angle}


class PointGoal(TaskDistribution[PointGoalTask]):
    """Goals anywhere on a circle, which is cut into 16 equal arcs: the second and every fourth one after it are the test
    split.

    So a test goal lies up to 11° from the nearest training goal, between training goals on both sides, and training covers
    three quarters of the circle. There are infinitely many tasks.

    Args:
        split: ``"train"`` or ``"test"``.
        upper_half: goals with y > 0 only, half of the arcs: a family whose goals have something in common.
    """

    _example_id = "sparse/PointGoal-v0"
    has_vector_form = True

    def __init__(self, split: str = "train", upper_half: bool = False) -> None:
        super().__init__(split)
        self.upper_half = upper_half

    def sample(self, rng: np.random.Generator) -> PointGoalTask:
        within = range(ARCS // 2 if self.upper_half else ARCS)
        arcs = [arc for arc in within if (arc % TEST_EVERY == 1) == (self.split == "test")]
        return PointGoalTask(float((rng.choice(arcs) + rng.random()) * 2 * math.pi / ARCS))


@dataclass(frozen=True)
class MetaWorldGoal(Task):
    """``sparse/MetaWorld-<task_name>-v3`` with given places of object and goal.

    Args:
        task_name: one of ``envs.catalogue.METAWORLD_TASKS``.
        rand_vec: the 3 or 6 numbers that place object and goal, Meta-World's ``rand_vec``.
    """

    task_name: str
    rand_vec: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rand_vec", tuple(self.rand_vec))  # JSON has lists only

    @property
    def env_id(self) -> str:
        return f"sparse/MetaWorld-{self.task_name}-v3"

    @property
    def env_kwargs(self) -> dict[str, Any]:
        return {"rand_vec": list(self.rand_vec)}


class _MetaWorldBenchmark(TaskDistribution[MetaWorldGoal]):
    """One of Meta-World's benchmarks: the goals that its own class samples from ``seed``, 50 for each task name.

    They are sampled when they are first needed, once in a process.
    """

    def __init__(self, split: str, seed: int) -> None:
        super().__init__(split)
        from envs.meta_world.task import MAX_SEED

        self.seed = check_integer("seed", seed, 0, MAX_SEED)

    @property
    @abstractmethod
    def task_names(self) -> tuple[str, ...]:
        """The names of the split's tasks, in Meta-World's order."""

    @property
    def _goal_seed(self) -> int:
        return self.seed

    @cached_property
    def tasks(self) -> tuple[MetaWorldGoal, ...]:  # type: ignore[override]
        from envs.meta_world import benchmark_rand_vecs

        goals = benchmark_rand_vecs(self.task_names, self._goal_seed)
        return tuple(MetaWorldGoal(name, vec) for name, vecs in zip(self.task_names, goals, strict=True) for vec in vecs)

    def sample(self, rng: np.random.Generator) -> MetaWorldGoal:
        return self.tasks[rng.integers(len(self.tasks))]

    def retask(self, env: gym.Env, task: MetaWorldGoal) -> bool:
        unwrapped: Any = env.unwrapped
        if unwrapped.task_name != task.task_name:
            return False
        unwrapped.rand_vec = task.rand_vec
        return True

    @property
    def _example_id(self) -> str:
        return f"sparse/MetaWorld-{self.task_names[0]}-v3"


class MetaWorldML1(_MetaWorldBenchmark):
    """One task with 50 goals for training and 50 others for testing; equal to ``metaworld.ML1(f"{name}-v3", seed=seed)``.

    Args:
        name: one of ``envs.catalogue.METAWORLD_TASKS``.
        split: ``"train"`` or ``"test"``. As in Meta-World, the test goals of ``seed`` are the training goals of ``seed + 1``.
        seed: seed from which the goals are sampled.
    """

    def __init__(self, name: str, split: str = "train", seed: int = 0) -> None:
        from envs.meta_world import check_task_name

        check_task_name(name)
        super().__init__(split, seed)
        self.name = name

    @property
    def task_names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def _goal_seed(self) -> int:
        return self.seed + (self.split == "test")


class _MetaWorldSplit(_MetaWorldBenchmark):
    """A benchmark whose splits are different task names."""

    _benchmark: str

    def __init__(self, split: str = "train", seed: int = 0) -> None:
        super().__init__(split, seed)

    @property
    def task_names(self) -> tuple[str, ...]:
        from metaworld import env_dict

        return tuple(name.removesuffix("-v3") for name in getattr(env_dict, self._benchmark)[self.split])


class MetaWorldML10(_MetaWorldSplit):
    """10 tasks for training and 5 others for testing, 50 goals each; equal to ``metaworld.ML10(seed=seed)``.

    Args:
        split: ``"train"`` or ``"test"``.
        seed: seed from which the goals are sampled.
    """

    _benchmark = "ML10_V3"


class MetaWorldML45(_MetaWorldSplit):
    """45 tasks for training and 5 others for testing, 50 goals each; equal to ``metaworld.ML45(seed=seed)``.

    Args:
        split: ``"train"`` or ``"test"``.
        seed: seed from which the goals are sampled.
    """

    _benchmark = "ML45_V3"
