"""Meta-World's 50 manipulation tasks with a reward of 1 at the first success: ``MetaWorldTask``.

The simulation, the goals and what counts as success are Meta-World's own (version 3); the 0/1 reward, the seeding, and the
goals as plain numbers are added here. A goal is a ``rand_vec``, Meta-World's word for the 3 or 6 numbers that place a task's
object and goal.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task

from envs.action_checks import check_action, check_integer, check_render_mode, did_you_mean
from envs.catalogue import METAWORLD_TASKS
from envs.meta_world.fast_observation import with_fast_observation

RENDER_MODES = ("human", "rgb_array", "depth_array")
BOUND = 10.0  # metres; an object in reach is within one
N_GOALS = 50  # of each task in Meta-World's benchmarks
MAX_SEED = 2**32 - 2  # one below NumPy's largest, because test goals take the next seed


class MetaWorldTask(gym.Env[np.ndarray, np.ndarray], EzPickle):
    """One of Meta-World's tasks; reward 1 at the first success of an episode, 0 on every other step.

    Success does not end the episode, the time limit does. ``info`` holds what Meta-World gives (``success``, this step's,
    among it), ``shaped_reward``, Meta-World's own reward, and ``is_success``: whether this episode has succeeded yet. So an
    episode's return is 1 exactly if ``is_success`` is true at its end.

    Observation: float64 ``[39]``: hand position (3), gripper opening (1), positions and quaternions of up to two objects (14),
    the same 18 a step earlier, the goal (3; zeros unless ``goal_observable``). Meta-World bounds the hand's entries; those of
    objects and goal are clipped to ±10 m. Action: float32 ``[4]`` in [-1, 1], the hand's displacement in units of 1 cm, and
    the grip. Both spaces are the same for all tasks.

    Without further arguments the task is fixed: every environment with the same ``task_seed`` has the same object and goal
    positions, those of Meta-World's own ``…-goal-hidden`` environment with that seed, whatever it is reset with. Nothing
    here reads or writes NumPy's global generator.

    Args:
        task_name: one of ``envs.catalogue.METAWORLD_TASKS``, ``"reach"`` for instance.
        goal_observable: show the goal in the observation's last three entries.
        task_seed: seed from which the task is sampled, once.
        resample_task: sample a new task at every reset instead, from the environment's own generator (``reset(seed=…)``).
        rand_vec: the task itself, as 3 or 6 numbers; read those of a task from ``env.unwrapped.rand_vec``. Excludes
            ``task_seed`` and ``resample_task``.
        render_mode: ``None``, ``"rgb_array"``, ``"depth_array"`` or ``"human"``.
        camera_name: Meta-World's ``topview``, ``corner``, ``corner2`` … (the corner views are upside down in Meta-World
            itself), or ``None`` for the free camera, which is upright.
        width: of a frame, in pixels.
        height: of a frame, in pixels.

    Raises:
        ValueError: for a name or a ``rand_vec`` that Meta-World does not have.

    >>> import gymnasium as gym, envs
    >>> env = gym.make("sparse/MetaWorld-reach-v3", rand_vec=[0.0, 0.6, 0.02, 0.05, 0.85, 0.2])
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, info
    ((39,), {'is_success': False})
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 80}  # noqa: RUF012 (Gymnasium's convention)
    position_indices: ClassVar[tuple[int, ...]] = (0, 1, 2, 4, 5, 6)  # the hand and the first object

    def __init__(
        self,
        task_name: str = "reach",
        goal_observable: bool = False,
        task_seed: int = 0,
        resample_task: bool = False,
        rand_vec: Sequence[float] | None = None,
        render_mode: str | None = None,
        camera_name: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        check_task_name(task_name)
        check_integer("task_seed", task_seed, 0, MAX_SEED)
        check_render_mode(render_mode, RENDER_MODES)
        if rand_vec is not None and (resample_task or task_seed != 0):
            raise ValueError(
                f"rand_vec is the task itself; leave out task_seed={task_seed} and resample_task={resample_task}, or rand_vec."
            )
        EzPickle.__init__(
            self, task_name, goal_observable, task_seed, resample_task, rand_vec, render_mode, camera_name, width, height
        )
        self.task_name = task_name
        self.goal_observable = goal_observable
        self.resample_task = resample_task
        self.render_mode = render_mode
        self.source = _make_source(task_name, render_mode=render_mode, camera_name=camera_name, width=width, height=height)
        _check_camera(camera_name, self.source.model)
        self.source.max_path_length = sys.maxsize  # the time limit is gym.make's; Meta-World refuses the 501st step

        self._rand_vec: list[float] | None = None
        if rand_vec is not None:
            self._set_rand_vec(_check_rand_vec(self.source, rand_vec))
        elif not resample_task:
            self._set_rand_vec(_sample_rand_vec(self.source, np.random.RandomState(task_seed)))

        space = self.source.observation_space
        low, high = np.maximum(space.low, -BOUND), np.minimum(space.high, BOUND)
        low[-3:], high[-3:] = -BOUND, BOUND  # Meta-World's differ between tasks, and are 0 for a hidden goal
        self._low, self._high = low, high
        self.observation_space = spaces.Box(low, high, dtype=np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self._succeeded = False

    @property
    def rand_vec(self) -> list[float] | None:
        """The numbers that place this task's object and goal; None before the first reset with ``resample_task``."""
        return None if self._rand_vec is None else list(self._rand_vec)

    @rand_vec.setter
    def rand_vec(self, rand_vec: Sequence[float]) -> None:
        """Set another task, from the next reset on."""
        if self.resample_task:
            raise ValueError("An environment with resample_task=True samples its tasks; leave that out to set rand_vec.")
        self._set_rand_vec(_check_rand_vec(self.source, rand_vec))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if self.resample_task:
            self._set_rand_vec(_sample_rand_vec(self.source, self.np_random))
        observation, info = self.source.reset()
        self._succeeded = False
        return self._clip(observation), {**info, "is_success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = check_action(action, (4,), "dx, dy, dz, grip, in [-1, 1]")
        observation, shaped_reward, _, _, info = self.source.step(action)
        first_success = bool(info["success"]) and not self._succeeded
        self._succeeded |= first_success
        if self.render_mode == "human":
            self.render()
        info = {**info, "shaped_reward": float(shaped_reward), "is_success": self._succeeded}
        return self._clip(observation), float(first_success), False, False, info

    def render(self) -> Any:
        return self.source.render()

    def close(self) -> None:
        self.source.close()

    def _clip(self, observation: np.ndarray) -> np.ndarray:
        return np.minimum(np.maximum(observation, self._low), self._high)

    def _set_rand_vec(self, rand_vec: np.ndarray) -> None:
        task = {
            "env_cls": ALL_V3_ENVIRONMENTS[f"{self.task_name}-v3"],
            "rand_vec": rand_vec,
            "partially_observable": not self.goal_observable,
        }
        self.source.set_task(Task(f"{self.task_name}-v3", pickle.dumps(task)))
        self._rand_vec = rand_vec.tolist()


def check_task_name(task_name: str) -> None:
    """Raise a ValueError with the closest names unless ``task_name`` is in ``METAWORLD_TASKS``."""
    if task_name not in METAWORLD_TASKS:
        hint = did_you_mean(
            str(task_name).removesuffix("-v3"), METAWORLD_TASKS, f"Meta-World has {', '.join(METAWORLD_TASKS)}."
        )
        raise ValueError(f"Unknown Meta-World task {task_name!r}. {hint}")


@lru_cache(maxsize=16)
def benchmark_rand_vecs(task_names: tuple[str, ...], seed: int) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Return the goals that Meta-World's benchmark classes give these tasks: for each name ``N_GOALS`` rand_vecs.

    Equal to those inside ``metaworld.ML1(…, seed=seed)`` and its like, whose tasks share one generator in order, but
    without simulating anything and without touching NumPy's global generator. About 0.2 s for each name, once.
    """
    rng = np.random.RandomState(seed)
    goals = []
    for name in task_names:
        source = _make_source(name)
        goals.append(tuple(tuple(_sample_rand_vec(source, rng).tolist()) for _ in range(N_GOALS)))
        source.close()
    return tuple(goals)


def _make_source(task_name: str, **kwargs: Any) -> Any:
    environment: Any = ALL_V3_ENVIRONMENTS[f"{task_name}-v3"]
    source = with_fast_observation(environment)(**kwargs)
    source._set_task_called = True  # its goal is sampled or given before it is used
    return source


@contextmanager
def _standing_still(source: Any) -> Iterator[None]:
    """Make ``reset_model`` cheap: the 50 steps that settle the hand do not change the goal that is sampled."""
    source.do_simulation = lambda ctrl, n_frames: None
    try:
        yield
    finally:
        del source.do_simulation


def _sample_rand_vec(source: Any, rng: np.random.Generator | np.random.RandomState) -> np.ndarray:
    """Return a goal from Meta-World's own distribution, its rejections included."""
    source._freeze_rand_vec, source.seeded_rand_vec = False, True
    source.np_random = rng
    with _standing_still(source):
        source.reset_model()
        source.reset_model()  # Meta-World's reset() does it twice, so that its goals are every second sample
    return np.array(source._last_rand_vec, dtype=np.float64)


def _check_rand_vec(source: Any, rand_vec: Sequence[float]) -> np.ndarray:
    space = source._random_reset_space
    vector = np.array(rand_vec, dtype=np.float64)
    if vector.shape != space.shape or not ((space.low <= vector) & (vector <= space.high)).all():
        raise ValueError(
            f"rand_vec must be {space.shape[0]} numbers from {space.low.tolist()} to {space.high.tolist()}, got {rand_vec!r}."
        )
    offers = iter([vector])
    source._get_state_rand_vec = lambda: next(offers)
    try:
        with _standing_still(source):
            source.reset_model()
    except StopIteration:  # Meta-World asked again, and with a fixed vector would do so for ever
        raise ValueError(f"Meta-World refuses rand_vec {rand_vec!r}: object and goal are too close to each other.") from None
    finally:
        del source._get_state_rand_vec
    return vector


def _check_camera(camera_name: str | None, model: Any) -> None:
    names = [model.camera(index).name for index in range(model.ncam)]
    if camera_name is not None and camera_name not in names:
        raise ValueError(f"Unknown camera {camera_name!r}; expected None or one of {', '.join(names)}.")
