"""A force-driven ball in a maze with a reward at the goal: ``PointMaze`` and its vectorised form ``PointMazeVectorEnv``."""

from __future__ import annotations

import mujoco
import numpy as np
from gymnasium_robotics.envs.maze.point import PointEnv
from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
from mujoco.rollout import Rollout

from envs.mujoco.mujoco_maze import MazeMap, MujocoMaze, MujocoMazeVectorEnv, _RandomStarts

MAX_SPEED = 5.0  # the source clips the ball's velocity to it before every step


class _Source(_RandomStarts, PointMazeEnv):
    pass


class PointMaze(MujocoMaze):
    """Gymnasium-Robotics' PointMaze on IRPO's maps: reward 1 and the end of the episode at the goal, 0 before it.

    Observation: float64 ``[8]``: position, velocity, position again (the source's ``achieved_goal``), goal; m and m/s.
    Action: float32 ``[2]`` in [-1, 1] (clipped), the force along x and y. A cell is 1 m wide.
    ``reset`` takes :class:`envs.reset_options.ResetOptions` and the source's ``goal_cell`` and ``reset_cell``, a (row, column)
    each.
    Source: Cho & Tran, arXiv 2601.21391.

    Unlike the source's, MuJoCo's constraint solver begins every step afresh instead of from the last step's forces, so
    that a step depends on the state alone, as in the vectorised form; source and this differ by round-off (some 1e-14 a step
    in contact).

    Args:
        maze_map: a name in ``envs.mujoco.maze_maps.MAZE_MAPS`` or a map of your own; ``None`` for ``"PointMaze0"``.
        random_start: start every episode on a free cell, sampled uniformly, out of reach of the goal, instead of on ``r``.
        render_mode: ``None`` or ``"rgb_array"``.
        position_noise_range: start and goal lie up to this far from their cells' centres, along each axis, in cells.
        goal_radius: distance at which the goal is reached, m; IRPO's program uses 0.8 instead of the source's 0.45.

    >>> import gymnasium as gym, envs
    >>> env = gym.make("sparse/PointMaze0-v0", maze_map=["11111", "1r0g1", "11111"])
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, info
    ((8,), {'is_success': False})
    """

    source_class = _Source
    default_map = "PointMaze0"
    position_indices = (4, 5)

    def __init__(
        self,
        maze_map: MazeMap | None = None,
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
    """``num_envs`` environments like :class:`PointMaze` under a time limit, stepped together by ``mujoco.rollout``.

    Args:
        num_envs: number of environments.
        maze_map: as in :class:`PointMaze`; all environments have the same map.
        random_start: as in :class:`PointMaze`.
        max_episode_steps: time limit of an episode in steps, ``None`` for none.
        render_mode: ``None`` or ``"rgb_array"``.
        autoreset_mode: see :class:`envs.vector.BatchedEnv`.
        position_noise_range: as in :class:`PointMaze`.
        goal_radius: as in :class:`PointMaze`.
        num_threads: number of threads; ``None`` for as many as this process may use processors. The trajectories don't depend
            on it.
    """

    maze_class = PointMaze
    _connected = ("_pool", "_models", "_datas")

    def _allocate(self) -> None:
        # MuJoCo's mjSTATE_FULLPHYSICS of this model: time, position, velocity. Two buffers, which a step exchanges.
        self._states, self._next_states = np.zeros((self.num_envs, 5)), np.zeros((self.num_envs, 1, 5))
        self._controls = np.zeros((self.num_envs, 1, 2))

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

    def _observe(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        states = self._states[indices]
        return np.concatenate([states[:, 1:], states[:, 1:3], self._goals[indices]], axis=1)

    def _qpos_qvel(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._states[index, 1:3], self._states[index, 3:]
