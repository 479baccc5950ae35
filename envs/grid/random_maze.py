"""Grid mazes sampled at reset: ``RandomMaze`` and its vectorised form ``RandomMazeVectorEnv``.

For tests of generalisation: train on the mazes of some seeds, test on those of others. Both forms sample with
:class:`envs.grid.maze_maker.MazeMaker`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs.action_checks import check_discrete, check_render_mode
from envs.grid.grid_maze import MOVE_MEANING, GridMaze, sample_start
from envs.grid.maze_maker import Maze, MazeMaker
from envs.maps import walk_tables
from envs.rendering import render_grid
from envs.reset_options import ResetOptions
from envs.vector import BatchedEnv


class _Rules:
    """Rules that both forms share: which maze an episode has, where it begins and what is observed of it."""

    def __init__(self, size: Any, density: float, maze_seed: Any, random_start: bool, observe_map: bool) -> None:
        self.maker = MazeMaker(size, density)
        self.random_start = random_start
        self.observe_map = observe_map
        self._seeds = _check_seeds(maze_seed)
        self.fixed = None if self._seeds is None or len(self._seeds) > 1 else self._maze_of(self._seeds[0])
        rows, columns = self.maker.shape
        high = [columns - 1, rows - 1] * 2 + [1] * (rows * columns if observe_map else 0)
        self.observation_space = spaces.Box(0, np.array(high, dtype=np.float32), dtype=np.float32)

    def begin(self, options: dict[str, Any], rng: np.random.Generator) -> tuple[Maze, int]:
        """Return the maze of an episode and the cell it begins in."""
        maze = self.fixed or self._sample_maze(rng)
        random_start, ignore_goal = ResetOptions.read(options, self.random_start)
        if not random_start:
            return maze, maze.start
        free = np.flatnonzero(~maze.walls)
        place = sample_start(len(free), int(free.searchsorted(maze.goal)), ignore_goal, rng)
        return maze, int(free[place])

    def observation(self, maze: Maze, cell: int) -> np.ndarray:
        map_ = maze.walls if self.observe_map else ()
        return np.concatenate([self.place(cell), self.place(maze.goal), map_], dtype=np.float32)

    def transition_graph(self, maze: Maze) -> tuple[np.ndarray, np.ndarray]:
        cells, _, next_states = walk_tables(maze.walls.reshape(self.maker.shape))
        observations = np.repeat(self.observation(maze, maze.start)[None], len(cells), axis=0)
        observations[:, :2] = cells
        return observations, next_states

    def render(self, maze: Maze, cell: int) -> np.ndarray:
        return render_grid(maze.walls.reshape(self.maker.shape), self.place(maze.goal), self.place(cell))

    def place(self, cell: int) -> np.ndarray:
        """Return (column, row) of a cell."""
        row, column = divmod(cell, self.maker.shape[1])
        return np.array([column, row])

    def _sample_maze(self, rng: np.random.Generator) -> Maze:
        if self._seeds is None:
            return self.maker.sample(rng)
        return self._maze_of(self._seeds[int(rng.integers(len(self._seeds)))])

    def _maze_of(self, seed: int) -> Maze:
        return self.maker.sample(np.random.default_rng(int(seed)))


def _check_seeds(maze_seed: Any) -> Sequence[int] | None:
    if maze_seed is None:
        return None
    seeds: Any = [maze_seed] if isinstance(maze_seed, (int, np.integer)) else maze_seed
    if (
        not isinstance(seeds, Sequence)
        or not seeds
        or not all(isinstance(seed, (int, np.integer)) and seed >= 0 for seed in seeds)
    ):
        raise ValueError(f"maze_seed must be an integer of at least 0, several of them, or None; got {maze_seed!r}.")
    return seeds


class RandomMaze(gym.Env[np.ndarray, np.int64]):
    """A maze sampled at every reset, with its start and goal; reward 1 and the end of the episode at the goal, 0 before it.

    Every maze is solvable; :class:`envs.grid.maze_maker.MazeMaker` says how they are sampled. ``reset(seed=s)`` always gives
    the same maze, which is also that of ``maze_seed=s``.

    Observation: float32 ``(column, row, goal column, goal row)`` and, with ``observe_map``, the map, row by row, 1 for a wall.
    Action: 0 left, 1 down, 2 right, 3 up; a move into a wall stays. ``info["is_success"]`` on every step. ``reset`` takes
    :class:`envs.reset_options.ResetOptions`.

    Args:
        size: rows and columns of the map, its border included: one odd number of at least 5 or two.
        density: share of the inner walls of a perfect maze that is kept; 1 a perfect maze, 0 an empty hall.
        maze_seed: ``None`` for new mazes without end, sampled from the environment's generator; an integer for that one maze
            at every reset; or several, ``list(range(200))`` for instance, to sample every episode's maze from those: mazes to
            learn in, while those of other seeds stay unseen.
        random_start: start every episode on a free cell other than the goal, sampled uniformly, instead of in the maze's
            start.
        observe_map: whether the map is observed; without it a policy can't tell one maze from another.
        render_mode: ``None`` or ``"rgb_array"``.

    >>> import gymnasium as gym, envs
    >>> train = gym.make("sparse/RandomMaze-v0", maze_seed=list(range(200)))
    >>> test = gym.make("sparse/RandomMaze-v0", maze_seed=list(range(1000, 1100)))
    >>> observation, info = test.reset(seed=0)
    >>> observation.shape, observation[4:15]
    ((125,), array([1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1.], dtype=float32))
    """

    metadata: dict[str, Any] = GridMaze.metadata
    position_indices: ClassVar[tuple[int, ...]] = GridMaze.position_indices
    action_meaning: ClassVar[str] = MOVE_MEANING
    _cell: int
    _observation: np.ndarray

    def __init__(
        self,
        size: int | tuple[int, int] = 11,
        density: float = 1.0,
        maze_seed: int | Sequence[int] | None = None,
        random_start: bool = False,
        observe_map: bool = True,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode)
        self._rules = _Rules(size, density, maze_seed, random_start, observe_map)
        self.render_mode = render_mode
        self.observation_space = self._rules.observation_space
        self.action_space = spaces.Discrete(4)
        self._maze: Maze | None = None
        self._ignore_goal = False
        if self._rules.fixed is not None:
            self._enter(self._rules.fixed, self._rules.fixed.start)

    @property
    def walls(self) -> np.ndarray:
        """The map of the current maze, bool ``[rows, columns]``."""
        return self._current_maze().walls.reshape(self._rules.maker.shape).copy()

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all S states of the current maze and where each action leads, the goal not absorbing.

        Returns:
            observations: float32 ``[S, 4]``, or ``[S, 4 + rows · columns]`` with the map.
            next_states: int ``[S, 4]``, indices into ``observations``.
        """
        return self._rules.transition_graph(self._current_maze())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._ignore_goal = ResetOptions.read(options).ignore_goal
        self._enter(*self._rules.begin(options or {}, self.np_random))
        return self._observation.copy(), {"is_success": False}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        check_discrete(action, self.action_space, self.action_meaning)
        maze = self._current_maze()
        target = self._cell + int(self._rules.maker.moves[action])
        if not maze.walls[target]:
            self._cell = target
            self._observation[:2] = self._rules.place(target)
        success = self._cell == maze.goal and not self._ignore_goal
        return self._observation.copy(), float(success), success, False, {"is_success": success}

    def render(self) -> np.ndarray | None:
        return self._rules.render(self._current_maze(), self._cell) if self.render_mode == "rgb_array" else None

    def _enter(self, maze: Maze, cell: int) -> None:
        self._maze, self._cell = maze, cell
        self._observation = self._rules.observation(maze, cell)

    def _current_maze(self) -> Maze:
        if self._maze is None:
            raise RuntimeError("There is no maze before the first reset: call reset(), or give maze_seed for a fixed one.")
        return self._maze


class RandomMazeVectorEnv(BatchedEnv):
    """``num_envs`` environments like :class:`RandomMaze` under a time limit, each in its own maze, stepped together.

    Args:
        num_envs: number of environments.
        size: as in :class:`RandomMaze`.
        density: as in :class:`RandomMaze`.
        maze_seed: as in :class:`RandomMaze`; an integer gives all environments the same maze.
        random_start: as in :class:`RandomMaze`.
        observe_map: as in :class:`RandomMaze`.
        max_episode_steps: time limit of an episode in steps, ``None`` for none.
        render_mode: ``None`` or ``"rgb_array"``.
        autoreset_mode: see :class:`envs.vector.BatchedEnv`.
    """

    position_indices: ClassVar[tuple[int, ...]] = RandomMaze.position_indices

    def __init__(
        self,
        num_envs: int = 1,
        size: int | tuple[int, int] = 11,
        density: float = 1.0,
        maze_seed: int | Sequence[int] | None = None,
        random_start: bool = False,
        observe_map: bool = True,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        single = RandomMaze(size, density, maze_seed, random_start, observe_map, render_mode)
        super().__init__(num_envs, single, max_episode_steps, autoreset_mode)
        self._rules = single._rules
        rows, columns = self._rules.maker.shape
        self._mazes: list[Maze | None] = [None] * num_envs
        self._walls = np.ones((num_envs, rows * columns), dtype=bool)
        self._first = np.arange(num_envs) * rows * columns  # where each environment's walls begin
        self._places = np.stack([self._rules.place(cell) for cell in range(rows * columns)]).astype(np.float32)
        self._cells = np.zeros(num_envs, dtype=np.int64)
        self._goals = np.zeros(num_envs, dtype=np.int64)
        self._observations = np.zeros((num_envs, *self._rules.observation_space.shape), dtype=np.float32)

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`RandomMaze.transition_graph`, where all environments share one maze.

        Raises:
            ValueError: each environment has its own maze.
        """
        if self._rules.fixed is None:
            raise ValueError(
                f"The {self.num_envs} environments have mazes of their own, which change at every reset, so there is no one "
                "transition graph. Give maze_seed an integer for one maze, or ask a single environment."
            )
        return self._rules.transition_graph(self._rules.fixed)

    def _begin(self, indices: np.ndarray, options: dict[str, Any]) -> None:
        for index in indices.tolist():  # one by one, because each samples from its own generator
            maze, self._cells[index] = self._rules.begin(options, self._rng(index))
            if maze is not self._mazes[index]:
                self._mazes[index] = maze
                self._walls[index] = maze.walls
                self._goals[index] = maze.goal
                self._observations[index] = self._rules.observation(maze, maze.start)

    def _advance(self, actions: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        targets = self._cells + self._rules.maker.moves[actions]
        self._cells = np.where(self._walls.ravel()[self._first + targets], self._cells, targets)
        return self._reward_at_goal(self._cells == self._goals)

    def _observe(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        observations = self._observations[indices].copy()
        observations[:, :2] = self._places[self._cells[indices]]
        return observations

    def _frame(self, index: int) -> np.ndarray | None:
        maze = self._mazes[index]
        return None if maze is None else self._rules.render(maze, int(self._cells[index]))
