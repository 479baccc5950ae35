"""A point that must find a hidden goal on a circle: ``PointGoalEnv`` and its vectorised form ``PointGoalVectorEnv``.

The cheapest family of tasks that differ only in where the goal is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs.action_checks import check_action, check_integer, check_render_mode
from envs.rendering import AGENT_COLOR, FLOOR_COLOR, GOAL_COLOR, WALL_COLOR
from envs.reset_options import ResetOptions
from envs.vector import BatchedEnv

PIXELS = 240  # height and width of a frame
_NUMBERS = (int, float, np.integer, np.floating)


@dataclass(frozen=True)
class _Circle:
    """Geometry that both forms share, in float64; points are ``[…, 2]``."""

    radius: float
    goal_radius: float
    step_size: float

    def __post_init__(self) -> None:
        for name in ("radius", "goal_radius", "step_size"):
            value = getattr(self, name)
            if not (isinstance(value, _NUMBERS) and math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, got {value!r}.")
        if self.goal_radius >= self.radius:
            raise ValueError(
                f"goal_radius must be below radius, so that the origin is not at the goal; got goal_radius={self.goal_radius} "
                f"and radius={self.radius}."
            )

    @property
    def bound(self) -> float:
        """Half the side of the square arena."""
        return 1.5 * self.radius

    @property
    def observation_space(self) -> spaces.Box:
        return spaces.Box(-self.bound, self.bound, (2,), np.float32)

    def goal(self, angle: float) -> np.ndarray:
        return np.array([self.radius * math.cos(angle), self.radius * math.sin(angle)])

    def move(self, points: np.ndarray, actions: np.ndarray) -> np.ndarray:
        velocity = actions.astype(np.float64).clip(-1.0, 1.0)
        return (points + self.step_size * velocity).clip(-self.bound, self.bound)

    def distance(self, points: np.ndarray, goals: np.ndarray) -> np.ndarray:
        x, y = points[..., 0] - goals[..., 0], points[..., 1] - goals[..., 1]
        return np.sqrt(x * x + y * y)

    def sample_start(self, goal: np.ndarray, ignore_goal: bool, rng: np.random.Generator) -> np.ndarray:
        while True:
            point = rng.uniform(-self.bound, self.bound, 2)
            if ignore_goal or self.distance(point, goal) > self.goal_radius:
                return point

    def render(self, point: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Return one frame, uint8 ``[PIXELS, PIXELS, 3]``, the y axis upwards."""
        centres = ((np.arange(PIXELS) + 0.5) / PIXELS * 2 - 1) * self.bound
        x, y = centres[None, :], -centres[:, None]
        frame = np.empty((PIXELS, PIXELS, 3), dtype=np.uint8)
        frame[:] = FLOOR_COLOR
        frame[np.abs(np.hypot(x, y) - self.radius) < self.bound / PIXELS] = WALL_COLOR
        frame[np.hypot(x - goal[0], y - goal[1]) <= self.goal_radius] = GOAL_COLOR
        frame[np.hypot(x - point[0], y - point[1]) <= self.bound / 25] = AGENT_COLOR
        return frame


def _fixed_angle(goal_angle: Any, task_seed: int, resample_task: bool) -> float:
    """Return the angle of the goal in radians, which holds until another one is sampled."""
    check_integer("task_seed", task_seed, 0)
    if goal_angle is None:
        return _sample_angle(np.random.default_rng(int(task_seed)))
    if resample_task:
        raise ValueError(f"resample_task=True samples a new goal at every reset; leave out goal_angle={goal_angle!r}.")
    if not (isinstance(goal_angle, _NUMBERS) and math.isfinite(goal_angle)):
        raise ValueError(f"goal_angle must be a finite number of radians or None, got {goal_angle!r}.")
    return float(goal_angle)


def _sample_angle(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.0, 2 * math.pi))


class PointGoalEnv(gym.Env[np.ndarray, np.ndarray]):
    """A point in the plane that must reach a hidden goal on a circle around the origin; reward 1 and the end of the episode
    there, 0 before it.

    Observation: float32 ``(x, y)``; the goal is not in it. Action: float32 ``[2]`` in [-1, 1] (clipped), the velocity: the
    point moves by ``step_size · action`` and stays in the square arena, whose half side is 1.5 radii. An episode starts at
    the origin. ``info`` holds ``is_success`` and, for baselines that need a dense reward, ``shaped_reward``: by how much the
    last step brought the point nearer to the goal (0 after a reset), which sums to the distance covered. ``reset`` takes
    :class:`envs.reset_options.ResetOptions`.

    Args:
        goal_angle: the goal's place on the circle, in radians. ``None`` samples it, uniformly.
        task_seed: seed from which a ``goal_angle`` of ``None`` is sampled, once: environments of one ``task_seed`` share the
            goal, whatever the seeds they are reset with.
        resample_task: sample a new goal at every reset, from the environment's own generator.
        random_start: start every episode anywhere in the arena, sampled uniformly, but not at the goal.
        radius: radius of the circle.
        goal_radius: distance at which the goal is reached; below ``radius``.
        step_size: length of a step of velocity 1.
        render_mode: ``None`` or ``"rgb_array"``.

    >>> import gymnasium as gym, envs
    >>> env = gym.make("sparse/PointGoal-v0", goal_angle=0.0)
    >>> observation, info = env.reset(seed=0)
    >>> steps = [env.step([1.0, 0.0]) for _ in range(10)]
    >>> [reward for _, reward, *_ in steps], steps[-1][2]
    ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], True)
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium's convention)
    position_indices: ClassVar[tuple[int, ...]] = (0, 1)

    def __init__(
        self,
        goal_angle: float | None = None,
        task_seed: int = 0,
        resample_task: bool = False,
        random_start: bool = False,
        radius: float = 1.0,
        goal_radius: float = 0.1,
        step_size: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode)
        self._circle = _Circle(radius, goal_radius, step_size)
        self.goal_angle = _fixed_angle(goal_angle, task_seed, resample_task)
        self.resample_task = resample_task
        self.random_start = random_start
        self.render_mode = render_mode
        self.observation_space = self._circle.observation_space
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._goal = self._circle.goal(self.goal_angle)
        self._point = np.zeros(2)
        self._ignore_goal = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        random_start, self._ignore_goal = ResetOptions.read(options, self.random_start)
        if self.resample_task:
            self.goal_angle = _sample_angle(self.np_random)
            self._goal = self._circle.goal(self.goal_angle)
        if random_start:
            self._point = self._circle.sample_start(self._goal, self._ignore_goal, self.np_random)
        else:
            self._point = np.zeros(2)
        return self._point.astype(np.float32), {"is_success": False, "shaped_reward": 0.0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        velocity = check_action(action, (2,), "the velocity, in [-1, 1]")
        before = self._circle.distance(self._point, self._goal)
        self._point = self._circle.move(self._point, velocity)
        distance = self._circle.distance(self._point, self._goal)
        success = bool(distance <= self._circle.goal_radius) and not self._ignore_goal
        info = {"is_success": success, "shaped_reward": float(before - distance)}
        return self._point.astype(np.float32), float(success), success, False, info

    def render(self) -> np.ndarray | None:
        return self._circle.render(self._point, self._goal) if self.render_mode == "rgb_array" else None


class PointGoalVectorEnv(BatchedEnv):
    """``num_envs`` environments like :class:`PointGoalEnv` under a time limit, stepped together.

    Args:
        num_envs: number of environments.
        goal_angle: one angle for all environments, or one for each: a batch of tasks.
        task_seed: as in :class:`PointGoalEnv`.
        resample_task: as in :class:`PointGoalEnv`.
        random_start: as in :class:`PointGoalEnv`.
        radius: as in :class:`PointGoalEnv`.
        goal_radius: as in :class:`PointGoalEnv`.
        step_size: as in :class:`PointGoalEnv`.
        max_episode_steps: time limit of an episode in steps, ``None`` for none.
        render_mode: ``None`` or ``"rgb_array"``.
        autoreset_mode: see :class:`envs.vector.BatchedEnv`.
    """

    position_indices: ClassVar[tuple[int, ...]] = PointGoalEnv.position_indices

    def __init__(
        self,
        num_envs: int = 1,
        goal_angle: float | list[float] | tuple[float, ...] | np.ndarray | None = None,
        task_seed: int = 0,
        resample_task: bool = False,
        random_start: bool = False,
        radius: float = 1.0,
        goal_radius: float = 0.1,
        step_size: float = 0.1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        given = list(goal_angle) if isinstance(goal_angle, (list, tuple, np.ndarray)) else [goal_angle]
        angles = [_fixed_angle(angle, task_seed, resample_task) for angle in given]
        single = PointGoalEnv(None, task_seed, resample_task, random_start, radius, goal_radius, step_size, render_mode)
        super().__init__(num_envs, single, max_episode_steps, autoreset_mode)
        self._circle, self.resample_task, self.random_start = single._circle, resample_task, random_start
        if len(angles) not in (1, num_envs):
            raise ValueError(f"Expected one goal_angle, or one for each of the {num_envs} environments, got {len(angles)}.")
        self._goals = np.broadcast_to([self._circle.goal(angle) for angle in angles], (num_envs, 2)).copy()
        self._points = np.zeros((num_envs, 2))
        self._distance = self._circle.distance(self._points, self._goals)
        self._shaped_reward = np.zeros(num_envs)

    def _begin(self, indices: np.ndarray, options: dict[str, Any]) -> None:
        random_start, ignore_goal = ResetOptions.read(options, self.random_start)
        self._points[indices] = 0.0
        if self.resample_task or random_start:
            for index in indices.tolist():  # one by one, because each samples from its own generator
                if self.resample_task:
                    self._goals[index] = self._circle.goal(_sample_angle(self._rng(index)))
                if random_start:
                    self._points[index] = self._circle.sample_start(self._goals[index], ignore_goal, self._rng(index))
        self._distance[indices] = self._circle.distance(self._points[indices], self._goals[indices])
        self._shaped_reward[indices] = 0.0

    def _advance(self, actions: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        before = self._distance
        self._points = self._circle.move(self._points, actions)
        self._distance = self._circle.distance(self._points, self._goals)
        self._shaped_reward = before - self._distance
        return self._reward_at_goal(self._distance <= self._circle.goal_radius)

    def _observe(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        return self._points[indices].astype(np.float32)

    def _extra_info(self) -> dict[str, np.ndarray]:
        return {"shaped_reward": self._shaped_reward.copy()}

    def _frame(self, index: int) -> np.ndarray:
        return self._circle.render(self._points[index], self._goals[index])
