"""A force-driven ball in a maze, paid at the goal: ``PointMaze`` and its vectorised twin ``PointMazeVectorEnv``.

n copies of the twin give bit for bit the trajectories of n single environments under the same seeds and actions.
"""

from __future__ import annotations

import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium_robotics.envs.maze.point import PointEnv
from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
from mujoco.rollout import Rollout

from envs.mujoco_maze import MazeMap, MujocoMaze, MujocoMazeVectorEnv, RandomStarts

MAX_SPEED = 5.0  # the source clips the ball's velocity to it before every step


class _Source(RandomStarts, PointMazeEnv):
    pass


class PointMaze(MujocoMaze):
    """Gymnasium-Robotics' PointMaze on IRPO's maps: reward 1 and the end of the episode at the goal, 0 before it.

    Observation: float64 ``[8]``: position, velocity, position again (the source's ``achieved_goal``), goal; m and m/s.
    Action: float32 ``[2]`` in [-1, 1] (clipped), the force along x and y. A cell is 1 m wide.
    ``reset(options={"random_start": True, "ignore_goal": True})``: start anywhere, and let the goal neither pay nor end this
    one episode; the source's ``goal_cell`` and ``reset_cell``, a (row, column) each, work too.
    Source: Cho & Tran, arXiv 2601.21391.

    Unlike the source's, MuJoCo's constraint solver begins every step afresh instead of from the last step's forces, so
    that a step depends on the state alone, as in the twin; the two differ by round-off (some 1e-14 a step in contact).

    Args:
        maze_map, random_start, render_mode, position_noise_range, goal_radius: as in
            :class:`envs.mujoco_maze.MujocoMaze`.

    >>> import gymnasium as gym, envs
    >>> env = gym.make("sparse/PointMaze0-v0", maze_map=["11111", "1r0g1", "11111"])
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, info
    ((8,), {'is_success': False})
    """

    source_class = _Source
    position_indices = (4, 5)

    def __init__(
        self,
        maze_map: MazeMap = "PointMaze0",
        random_start: bool = False,
        render_mode: str | None = None,
        position_noise_range: float = 0.25,
        goal_radius: float = 0.45,
    ) -> None:
        super().__init__(maze_map, random_start, render_mode, position_noise_range, goal_radius)
        self.body.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART

    @property
    def body(self) -> PointEnv:
        return self.source.point_env


class PointMazeVectorEnv(MujocoMazeVectorEnv):
    """``num_envs`` copies of :class:`PointMaze` under a time limit, stepped at once by ``mujoco.rollout``.

    Args:
        num_threads: see :class:`envs.mujoco_maze.MujocoMazeVectorEnv`; the others are as in :class:`PointMaze` and
            :class:`envs.vector.BatchedEnv`.
    """

    maze_class = PointMaze
    _connected = ("_pool", "_models", "_datas")

    def __init__(
        self,
        num_envs: int = 1,
        maze_map: MazeMap = "PointMaze0",
        random_start: bool = False,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        position_noise_range: float = 0.25,
        goal_radius: float = 0.45,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(
            num_envs,
            maze_map,
            random_start,
            max_episode_steps,
            render_mode,
            autoreset_mode,
            position_noise_range,
            goal_radius,
            num_threads,
        )
        # MuJoCo's mjSTATE_FULLPHYSICS of this model: time, position, velocity. Two buffers, which a step exchanges.
        self._states, self._next_states = np.zeros((num_envs, 5)), np.zeros((num_envs, 1, 5))
        self._controls = np.zeros((num_envs, 1, 2))

    def _connect(self) -> None:
        model = self._maze.body.model
        self._pool = Rollout(nthread=self._num_threads if self._num_threads > 1 else 0)
        self._models = [model] * self.num_envs
        self._datas = [mujoco.MjData(model) for _ in range(self._num_threads)]

    def _place(self, index: int, position: np.ndarray) -> None:
        self._states[index] = 0.0
        self._states[index, 1:3] = position

    def _simulate(self, actions: np.ndarray, active: np.ndarray | None) -> None:
        velocities = self._states[:, 3:]
        np.clip(velocities, -MAX_SPEED, MAX_SPEED, out=velocities)
        self._controls[:, 0] = np.clip(actions, -1.0, 1.0)
        self._pool.rollout(
            self._models,
            self._datas,
            self._states,
            self._controls,
            skip_checks=True,
            nstep=1,
            state=self._next_states,
            chunk_size=-(-self.num_envs // (4 * self._num_threads)),  # pieces enough for an even load, not more
        )
        self._states, self._next_states = self._next_states[:, 0], self._states[:, None]

    def _observe(self, copies: np.ndarray | slice = slice(None)) -> np.ndarray:
        states = self._states[copies]
        return np.concatenate([states[:, 1:], states[:, 1:3], self._goals[copies]], axis=1)

    def _qpos_qvel(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._states[index, 1:3], self._states[index, 3:]
