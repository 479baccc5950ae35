"""A four-legged ant in a maze with a reward at the goal: ``AntMaze`` and its vectorised form ``AntMazeVectorEnv``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv

from envs.maps import find_cells
from envs.mujoco.maze_maps import WALL
from envs.mujoco.mujoco_maze import MazeMap, MujocoMaze, MujocoMazeVectorEnv, _RandomStarts

HEIGHTS = (0.35, 1.0)  # m; a torso at or beyond them has fallen (or been flung up)
# Up to here it is a tenth quicker to try each wall than to search MuJoCo's tree of them; the contacts are the same, in the
# same order.
FEW_WALLS = 50
_INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION  # all that the next step depends on


class _Source(_RandomStarts, AntMazeEnv):
    pass


class AntMaze(MujocoMaze):
    """Gymnasium-Robotics' AntMaze on IRPO's maps: reward 1 and the end of the episode at the goal, -1 and the end on a fall,
    0 otherwise.

    A fall is a torso height outside (0.35, 1.0) m; at the goal it cancels the 1, as in IRPO's program, and ``is_success`` is
    still true.

    Observation: float64 ``[109]``: the source's 105 (torso height and orientation, joint angles, 14 velocities, 78 external
    forces clipped to [-1, 1]), then position and goal, m. Action: float32 ``[8]`` in [-1, 1], the joints' torques. A cell is
    4 m wide. ``reset`` takes the options of :class:`envs.mujoco.point_maze.PointMaze`; a fall ends an episode with
    ``ignore_goal`` too.
    Source: Cho & Tran, arXiv 2601.21391.

    Args:
        maze_map: a name in ``envs.mujoco.maze_maps.MAZE_MAPS`` or a map of your own; ``None`` for ``"AntMaze0"``.
        random_start: start every episode on a free cell, sampled uniformly, out of reach of the goal, instead of on ``r``.
        render_mode: ``None`` or ``"rgb_array"``.
        position_noise_range: start and goal lie up to this far from their cells' centres, along each axis, in cells.
        goal_radius: distance at which the goal is reached, m; IRPO's program uses 0.8 instead of the source's 0.45.
    """

    source_class = _Source
    default_map = "AntMaze0"
    position_indices = (105, 106)

    def __init__(
        self,
        maze_map: MazeMap | None = None,
        random_start: bool = False,
        render_mode: str | None = None,
        position_noise_range: float = 0.25,
        goal_radius: float = 0.45,
    ) -> None:
        super().__init__(maze_map, random_start, render_mode, position_noise_range, goal_radius)
        if len(find_cells(self.source.maze.maze_map, WALL)) <= FEW_WALLS:
            self.body.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_MIDPHASE

    @property
    def body(self) -> AntEnv:
        return self.source.ant_env

    def outcome(self, observations: np.ndarray, success: Any) -> tuple[Any, Any]:
        height = observations[..., 0]
        fallen = ~((height > HEIGHTS[0]) & (height < HEIGHTS[1]))
        return success.astype(np.float64) - fallen, success | fallen


class AntMazeVectorEnv(MujocoMazeVectorEnv):
    """``num_envs`` environments like :class:`AntMaze` under a time limit, each with its own simulation data, stepped by
    several threads.

    Args:
        num_envs: number of environments.
        maze_map: as in :class:`AntMaze`; all environments have the same map.
        random_start: as in :class:`AntMaze`.
        max_episode_steps: time limit of an episode in steps, ``None`` for none.
        render_mode: ``None`` or ``"rgb_array"``.
        autoreset_mode: see :class:`envs.vector.BatchedEnv`.
        position_noise_range: as in :class:`AntMaze`.
        goal_radius: as in :class:`AntMaze`.
        num_threads: number of threads; ``None`` for as many as this process may use processors. The trajectories don't depend
            on it.
    """

    maze_class = AntMaze
    _connected = ("_pool", "_datas", "_views")

    def _allocate(self) -> None:
        self._observations = np.zeros((self.num_envs, 109))

    def _connect(self) -> None:
        model = self._maze.body.model
        self._pool = ThreadPoolExecutor(self._num_threads)
        self._datas = [mujoco.MjData(model) for _ in range(self.num_envs)]
        # An attribute of MjData is a new array object at each access; these are kept.
        self._views = [(data.ctrl, data.qpos, data.qvel, data.cfrc_ext[1:].reshape(-1)) for data in self._datas]

    def _place(self, index: int, position: np.ndarray) -> None:
        body, data = self._maze.body, self._datas[index]
        mujoco.mj_resetData(body.model, data)
        data.qpos[:] = body.init_qpos
        data.qpos[:2] = position
        data.qvel[:] = body.init_qvel
        mujoco.mj_forward(body.model, data)
        self._read(index)
        self._observations[index, -2:] = self._goals[index]

    def _simulate(self, actions: np.ndarray, active: np.ndarray | None) -> None:
        indices = np.flatnonzero(self._all if active is None else active).tolist()
        count = min(4 * self._num_threads, len(indices))  # pieces enough for an even load
        pieces = [indices[k::count] for k in range(count)]
        list(self._pool.map(self._simulate_piece, pieces, [actions] * count))  # list: an exception in a piece shows here

    def _simulate_piece(self, indices: list[int], actions: np.ndarray) -> None:
        body = self._maze.body
        model, frame_skip = body.model, body.frame_skip
        for index in indices:  # a loop, because MuJoCo steps one MjData at a time; it lets the other threads run meanwhile
            data = self._datas[index]
            self._views[index][0][:] = actions[index]
            mujoco.mj_step(model, data, nstep=frame_skip)
            mujoco.mj_rnePostConstraint(model, data)  # the external forces
            self._read(index)

    def _read(self, index: int) -> None:
        _, qpos, qvel, forces = self._views[index]
        row = self._observations[index]
        row[:13] = qpos[2:]
        row[13:27] = qvel
        np.clip(forces, -1.0, 1.0, out=row[27:105])
        row[105:107] = qpos[:2]

    def _observe(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        return self._observations[indices].copy()

    def _qpos_qvel(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._views[index][1], self._views[index][2]

    def close_extras(self, **kwargs: Any) -> None:
        if "_pool" in self.__dict__:
            self._pool.shutdown()
        super().close_extras(**kwargs)

    def __getstate__(self) -> dict[str, Any]:
        model = self._maze.body.model
        states = np.zeros((self.num_envs, mujoco.mj_stateSize(model, _INTEGRATION)))
        for data, state in zip(self._datas, states, strict=True):
            mujoco.mj_getState(model, data, state, _INTEGRATION)
        return {**super().__getstate__(), "_states": states}

    def __setstate__(self, state: dict[str, Any]) -> None:
        states = state.pop("_states")
        super().__setstate__(state)
        for data, saved in zip(self._datas, states, strict=True):
            mujoco.mj_setState(self._maze.body.model, data, saved, _INTEGRATION)
