"""Gymnasium-Robotics' Fetch arm with a 0/1 reward: ``FetchReach`` and ``FetchPush``.

The simulation, the goals and what counts as success are Gymnasium-Robotics' own (``MujocoFetchReachEnv`` and
``MujocoFetchPushEnv``, its v4); flat observations, the 0/1 reward and the end on success are added here.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle
from gymnasium_robotics.envs.fetch.push import MujocoFetchPushEnv
from gymnasium_robotics.envs.fetch.reach import MujocoFetchReachEnv

from envs.action_checks import check_action, check_render_mode
from envs.goal_observation import flat_goal_space, flatten_goal_observation
from envs.reset_options import ResetOptions

RENDER_MODES = ("human", "rgb_array")
START_STEPS = 12  # enough for the gripper to cross half the box of goals


class _Fetch(gym.Env[np.ndarray, np.ndarray], EzPickle):
    """Base class of the Fetch tasks; ``source`` is Gymnasium-Robotics' environment."""

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 25}  # noqa: RUF012 (Gymnasium's convention)
    source_class: ClassVar[type]
    source: Any

    def _make_source(self, render_mode: str | None, width: int, height: int) -> None:
        check_render_mode(render_mode, RENDER_MODES)
        self.render_mode = render_mode
        self.source = self.source_class(render_mode=render_mode, width=width, height=height)
        self.observation_space = flat_goal_space(self.source.observation_space)
        self.action_space = self.source.action_space
        self._ignore_goal = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._ignore_goal = ResetOptions.read(options).ignore_goal
        self.source.np_random = self.np_random
        observation, _ = self.source.reset()
        return flatten_goal_observation(observation), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = check_action(action, (4,), "dx, dy, dz, fingers, in [-1, 1]")
        observation, _, _, _, info = self.source.step(action)
        success = bool(info["is_success"]) and not self._ignore_goal
        return flatten_goal_observation(observation), float(success), success, False, {**info, "is_success": success}

    def render(self) -> Any:
        # The source moves its goal marker with mj_forward, which leaves another warm start for the solver: without this a
        # rendered episode drifts from the same episode unseen.
        data = self.source.data
        warm_start = data.qacc_warmstart.copy()
        frame = self.source.render()
        data.qacc_warmstart[:] = warm_start
        return frame

    def close(self) -> None:
        self.source.close()


class FetchReach(_Fetch):
    """The gripper must come within 5 cm of a point in a box of 30 cm around its start; reward 1 and the end there.

    Observation: float64 ``[16]``, Gymnasium-Robotics' ``observation`` (10), ``achieved_goal`` (the gripper's position in
    metres) and ``desired_goal``. Action: float32 ``[4]`` in [-1, 1], the gripper's displacement in units of 5 cm; the fourth
    entry, for the fingers, does nothing. ``reset`` takes :class:`envs.reset_options.ResetOptions`. Source:
    Gymnasium-Robotics' FetchReach-v4 with its sparse reward plus 1.

    Args:
        random_start: start every episode with the gripper anywhere in the box of goals (but not at the goal) instead of in
            the middle; its own controller moves it there.
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``.
        width: of a frame, in pixels.
        height: of a frame, in pixels.

    >>> import gymnasium as gym, envs
    >>> env = gym.make("sparse/FetchReach-v0")
    >>> observation, info = env.reset(seed=0)
    >>> gripper, goal = observation[10:13], observation[13:]
    >>> env.step([*(goal - gripper) / 0.05, 0.0])[1]
    0.0
    """

    source_class = MujocoFetchReachEnv
    position_indices: ClassVar[tuple[int, ...]] = (10, 11, 12)  # achieved_goal

    def __init__(
        self, random_start: bool = False, render_mode: str | None = None, width: int = 480, height: int = 480
    ) -> None:
        EzPickle.__init__(self, random_start, render_mode, width, height)
        self.random_start = random_start
        self._make_source(render_mode, width, height)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        if ResetOptions.read(options, self.random_start).random_start:
            observation = self._move_anywhere(observation)
        return observation, info

    def _move_anywhere(self, observation: np.ndarray) -> np.ndarray:
        goal, half = observation[13:], self.source.target_range
        while True:
            start = self.source.initial_gripper_xpos + self.np_random.uniform(-half, half, size=3)
            if self._ignore_goal or np.linalg.norm(start - goal) > 2 * self.source.distance_threshold:
                break
        for _ in range(START_STEPS):
            gripper = observation[list(self.position_indices)]
            action = np.append(np.clip((start - gripper) / 0.05, -1, 1), 0.0)
            observation = flatten_goal_observation(self.source.step(action)[0])
        return observation


class FetchPush(_Fetch):
    """The gripper, its fingers closed, must push a block to within 5 cm of a point on the table; reward 1 and the end there.

    Observation: float64 ``[31]``, Gymnasium-Robotics' ``observation`` (25), ``achieved_goal`` (the block's position in
    metres) and ``desired_goal``. Action: float32 ``[4]`` in [-1, 1], the gripper's displacement in units of 5 cm; the fourth
    entry, for the fingers, does nothing. Block and goal are sampled at every reset.
    ``reset(options={"ignore_goal": True})`` lets the goal neither give a reward nor end that episode. Source:
    Gymnasium-Robotics' FetchPush-v4 with its sparse reward plus 1.

    Args:
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``.
        width: of a frame, in pixels.
        height: of a frame, in pixels.
    """

    source_class = MujocoFetchPushEnv
    position_indices: ClassVar[tuple[int, ...]] = (6, 7, 8)  # the block relative to the gripper, as IRPO takes it

    def __init__(self, render_mode: str | None = None, width: int = 480, height: int = 480) -> None:
        EzPickle.__init__(self, render_mode, width, height)
        self._make_source(render_mode, width, height)
