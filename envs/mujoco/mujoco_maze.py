"""Base classes of the MuJoCo mazes: ``MujocoMaze``, a Gymnasium-Robotics maze with a 0/1 reward, and ``MujocoMazeVectorEnv``.

Both sample their episodes with the source's own ``reset``, so that one seed gives the source's goal and start.
"""

from __future__ import annotations

import os
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle
from gymnasium.vector import AutoresetMode
from gymnasium_robotics.envs.maze import maze_v4
from gymnasium_robotics.envs.maze.maze_v4 import MazeEnv

from envs.action_checks import check_action, check_render_mode
from envs.goal_observation import flat_goal_space, flatten_goal_observation
from envs.maps import Cell, find_cells
from envs.mujoco.maze_maps import EITHER, FREE, GOAL, START, WALL, parse_maze_map
from envs.reset_options import ResetOptions
from envs.vector import BatchedEnv

MazeMap = str | Sequence[Sequence[int | str]]
_BUILDING = threading.Lock()


@contextmanager
def _private_folder() -> Iterator[None]:
    """Let the source write a maze's MJCF file into a folder that is deleted when the maze is built.

    The source writes it to the shared temporary folder, under a name made of the time (two processes may get the same), and
    leaves it there; it finds that folder as the parent of a ``tempfile.TemporaryDirectory()``.
    """
    with _BUILDING, tempfile.TemporaryDirectory(prefix="maze_") as folder:
        maze_v4.tempfile = SimpleNamespace(TemporaryDirectory=lambda: tempfile.TemporaryDirectory(dir=folder))
        try:
            yield
        finally:
            maze_v4.tempfile = tempfile


class _RandomStarts(MazeEnv):
    """Mixin before a source's class: an episode may start on any free cell.

    Attributes:
        start_anywhere: whether the next episode starts on a free cell, sampled uniformly.
        near_goal: whether such a start may be the goal's cell, or one from which the noise could put the start within
            ``goal_radius`` of the goal.
    """

    start_anywhere = near_goal = False
    goal_radius: float

    def generate_reset_pos(self) -> np.ndarray:
        if not self.start_anywhere:
            return super().generate_reset_pos()
        cells = self.free_cells()
        if not self.near_goal:
            cells = cells[self.out_of_reach(cells, self.goal, self.position_noise_range)]
        return cells[self.np_random.integers(len(cells))].copy()

    def free_cells(self) -> np.ndarray:
        """Return the centres of all free cells, ``[F, 2]``."""
        return np.array(
            [self.maze.cell_rowcol_to_xy(cell) for cell in find_cells(self.maze.maze_map, FREE, START, GOAL, EITHER)]
        )

    def out_of_reach(self, cells: np.ndarray, goal: np.ndarray, noise: float) -> np.ndarray:
        """Return which ``cells`` (centres ``[F, 2]``) neither hold ``goal`` nor come within ``goal_radius`` of it, wherever a
        position of ``noise`` (in cells) around the centre lies; bool ``[F]``."""
        size = self.maze.maze_size_scaling
        offset = np.abs(cells - goal)
        return (offset.max(axis=1) > size / 2) & (
            np.linalg.norm(np.maximum(offset - noise * size, 0.0), axis=1) > self.goal_radius
        )


class MujocoMaze(gym.Env[np.ndarray, np.ndarray], EzPickle):
    """A Gymnasium-Robotics maze with one flat observation, which defines success, reward and the end of an episode itself.

    Args:
        maze_map: a name in ``envs.mujoco.maze_maps.MAZE_MAPS`` or a map of your own (see ``parse_maze_map`` there); ``None``
            for ``default_map``.
        random_start: start every episode on a free cell, sampled uniformly, out of reach of the goal, instead of on ``r``.
        render_mode: ``None`` or ``"rgb_array"``.
        position_noise_range: start and goal lie up to this far from their cells' centres, along each axis, in cells.
        goal_radius: distance at which the goal is reached, m; IRPO's program uses 0.8 instead of the source's 0.45.

    Attributes:
        source: the Gymnasium-Robotics environment.
    """

    source_class: ClassVar[type[_RandomStarts]]
    default_map: ClassVar[str]
    position_indices: ClassVar[tuple[int, ...]]  # the entries of the observation that say where the agent is
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(
        self,
        maze_map: MazeMap | None = None,
        random_start: bool = False,
        render_mode: str | None = None,
        position_noise_range: float = 0.25,
        goal_radius: float = 0.45,
    ) -> None:
        EzPickle.__init__(self, maze_map, random_start, render_mode, position_noise_range, goal_radius)
        check_render_mode(render_mode)
        cells = parse_maze_map(self.default_map if maze_map is None else maze_map)
        if not 0 <= position_noise_range < 0.5:
            raise ValueError(
                f"position_noise_range must be at least 0 and below 0.5 (half a cell), got {position_noise_range!r}."
            )
        if not goal_radius > 0:
            raise ValueError(f"goal_radius must be positive, got {goal_radius!r}.")
        with _private_folder():
            self.source = self.source_class(maze_map=cells, continuing_task=False, render_mode=render_mode)
        self.source.position_noise_range = position_noise_range  # the source's constructor can't take it
        self.source.goal_radius = self.goal_radius = goal_radius
        self._check_goal_radius()
        self.random_start = random_start
        self.render_mode = render_mode
        self._ignore_goal = False
        self.observation_space = flat_goal_space(self.source.observation_space)
        self.action_space = self.source.action_space
        self.body.mujoco_renderer.default_cam_config = self._camera()

    @property
    def maze(self) -> Any:
        """Gymnasium-Robotics' description of the maze, its map and scale."""
        return self.source.maze

    @property
    @abstractmethod
    def body(self) -> Any:
        """The source's ``MujocoEnv``: the agent in its maze, without a task."""

    # --- Gymnasium's interface

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        observation, _ = self.source.reset(options=self._prepare(self.np_random, options or {}))
        return flatten_goal_observation(observation), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = check_action(action, self.action_space.shape or (), "forces, in [-1, 1]")
        observation = flatten_goal_observation(self.source.step(action)[0])
        success = self.reached(observation) and not self._ignore_goal
        reward, terminated = self.outcome(observation, np.bool_(success))
        return observation, float(reward), bool(terminated), False, {"is_success": bool(success)}

    def render(self) -> np.ndarray | None:
        return self.source.render() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self.source.close()

    # --- for one observation [d] or many [n, d]

    def reached(self, observations: np.ndarray) -> Any:
        """Return whether the agent is at the goal, bool ``[…]``; an observation ends with the positions of both."""
        return np.linalg.norm(observations[..., -4:-2] - observations[..., -2:], axis=-1) <= self.goal_radius

    def outcome(self, observations: np.ndarray, success: Any) -> tuple[Any, Any]:
        """Return float64 rewards and bool terminated, ``[…]``, of a step that led to ``observations``."""
        return success.astype(np.float64), success

    # --- for the vectorised form

    def sample_episode(self, rng: np.random.Generator, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the goal and the start, (x, y) each, that a reset with ``rng`` gives, without touching the simulation."""
        MazeEnv.reset(self.source, options=self._prepare(rng, options))
        return self.source.goal, self.source.reset_pos

    def render_state(self, qpos: np.ndarray, qvel: np.ndarray, goal: np.ndarray) -> Any:
        """Put this environment into a state and return its frame."""
        self.source.goal = goal
        self.source.update_target_site_pos()
        self.body.set_state(qpos, qvel)
        return self.render()

    # --- the rest

    def _prepare(self, rng: np.random.Generator, options: dict[str, Any]) -> dict[str, Cell]:
        """Give the source its generator and kind of start for one episode; return the options that are its own."""
        self.source.start_anywhere, self._ignore_goal = ResetOptions.read(options, self.random_start)
        self.source.near_goal = self._ignore_goal
        self.source.np_random = rng
        cells = {
            key: self._check_cell(key, options[key]) for key in ("goal_cell", "reset_cell") if options.get(key) is not None
        }
        if "goal_cell" in cells and "reset_cell" not in cells and not self.source.start_anywhere:
            if find_cells(self.source.maze.maze_map, START, EITHER) == [cells["goal_cell"]]:  # the source would look forever
                raise ValueError(f"options['goal_cell'] {cells['goal_cell']} is the only start; give 'reset_cell' as well.")
        return cells

    def _check_cell(self, key: str, cell: Any) -> Cell:
        rows = self.source.maze.maze_map
        try:
            row, column = (int(number) for number in cell)
        except (TypeError, ValueError):
            raise ValueError(f"options[{key!r}] must be a cell (row, column), got {cell!r}.") from None
        if not (0 <= row < len(rows) and 0 <= column < len(rows[0]) and rows[row][column] != WALL):
            raise ValueError(f"options[{key!r}] must be a free cell; row {row}, column {column} is wall or off the map.")
        return row, column

    def _check_goal_radius(self) -> None:
        cells, source = self.source.free_cells(), self.source
        for goal in source.maze.unique_goal_locations:
            if not source.out_of_reach(cells, goal, 2 * source.position_noise_range).any():  # the goal's noise and the start's
                raise ValueError(
                    f"With goal_radius {self.goal_radius} and position_noise_range {source.position_noise_range} every cell "
                    f"of the map may be within reach of the goal (a cell is {source.maze.maze_size_scaling} wide); make them "
                    "smaller or the map larger."
                )

    def _camera(self) -> dict[str, Any]:
        """Show the whole maze, from above its lower side: the source's camera for the ant stands inside a wall."""
        maze = self.source.maze
        extent = max(maze.map_length, maze.map_width) * maze.maze_size_scaling
        return {"distance": 1.4 * extent, "azimuth": 90.0, "elevation": -70.0, "lookat": np.zeros(3)}


class MujocoMazeVectorEnv(BatchedEnv):
    """``num_envs`` environments like a :class:`MujocoMaze`, with one compiled model for all, stepped by several threads.

    Args:
        num_envs: number of environments.
        maze_map: as in :class:`MujocoMaze`; all environments have the same map.
        random_start: as in :class:`MujocoMaze`.
        max_episode_steps: time limit of an episode in steps, ``None`` for none.
        render_mode: ``None`` or ``"rgb_array"``.
        autoreset_mode: see :class:`envs.vector.BatchedEnv`.
        position_noise_range: as in :class:`MujocoMaze`.
        goal_radius: as in :class:`MujocoMaze`.
        num_threads: number of threads; ``None`` for as many as this process may use processors. The trajectories don't depend
            on it.
    """

    maze_class: ClassVar[type[MujocoMaze]]
    _connected: ClassVar[tuple[str, ...]]  # attributes that live in MuJoCo or its threads: made by _connect, not pickled

    def __init__(
        self,
        num_envs: int = 1,
        maze_map: MazeMap | None = None,
        random_start: bool = False,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        position_noise_range: float = 0.25,
        goal_radius: float = 0.45,
        num_threads: int | None = None,
    ) -> None:
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads must be at least 1 or None, got {num_threads}.")
        # One single environment for all n: it owns the model, samples their episodes and renders them.
        self._maze = self.maze_class(maze_map, random_start, render_mode, position_noise_range, goal_radius)
        super().__init__(num_envs, self._maze, max_episode_steps, autoreset_mode)
        self.position_indices, self.maze = self._maze.position_indices, self._maze.maze
        self._num_threads = min(num_threads or _processors(), num_envs)
        self._goals = np.zeros((num_envs, 2))
        self._allocate()
        self._connect()

    # --- what a subclass defines

    @abstractmethod
    def _allocate(self) -> None:
        """Make the arrays that hold the environments' states."""

    @abstractmethod
    def _connect(self) -> None:
        """Make the attributes named in ``_connected``."""

    @abstractmethod
    def _place(self, index: int, position: np.ndarray) -> None:
        """Put environment ``index`` at ``position`` (x, y), as the single environment's reset does."""

    @abstractmethod
    def _simulate(self, actions: np.ndarray, active: np.ndarray | None) -> None:
        """Step the physics of all environments, or at least of those in ``active``."""

    @abstractmethod
    def _qpos_qvel(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return MuJoCo's position and velocity of environment ``index``."""

    # --- the rest

    def _begin(self, indices: np.ndarray, options: dict[str, Any]) -> None:
        for index in indices.tolist():  # one by one, because each samples from its own generator
            self._goals[index], start = self._maze.sample_episode(self._rng(index), options)
            self._place(index, start)

    def _advance(self, actions: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._simulate(actions, active)
        observations = self._observe()
        success = self._maze.reached(observations) & ~self._ignore_goal
        rewards, terminated = self._maze.outcome(observations, success)
        return rewards, terminated, success.copy()

    def _frame(self, index: int) -> Any:
        return self._maze.render_state(*self._qpos_qvel(index), self._goals[index])

    def close_extras(self, **kwargs: Any) -> None:
        if "_maze" in self.__dict__:  # Gymnasium closes an environment whose constructor refused its arguments, too
            self._maze.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._connected}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
