"""Grid mazes drawn from the reset seed: ``RandomMaze`` and its vectorised twin ``RandomMazeVectorEnv``.

For tests of generalisation: the mazes of some seeds to learn in, those of others to be tested in. Both forms draw with
``MazeMaker``; n copies of the twin give bit for bit the trajectories of n single environments under the same seeds and
actions, whatever the autoreset mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs.action_checks import check_render_mode
from envs.grid import MOVE_SPACE, GridMaze, check_move, check_moves, draw_start, render_maze
from envs.layouts import MOVES, walk_tables
from envs.vector import BatchedEnv


class Maze(NamedTuple):
    """A maze of rows × columns cells, numbered row by row."""

    walls: np.ndarray  # bool [rows · columns]
    start: int
    goal: int


class MazeMaker:
    """Draws mazes of one size and density, every one solvable.

    Rooms are the cells of odd row and odd column. A depth-first walk from a random room, backing up where it is stuck,
    opens walls until all rooms are connected by exactly one path: a perfect maze, of long corridors. Of the inner walls that
    are left the share 1 - ``density``, drawn at random, is then opened as well, and a post that no wall touches any more
    goes too: density 1 is the perfect maze, 0 an empty hall. The start is any room; the goal is any of that half of the
    rooms which is farthest from it.
    """

    def __init__(self, size: int | tuple[int, int], density: float) -> None:
        sizes = (size, size) if isinstance(size, (int, np.integer)) else size
        if (
            not isinstance(sizes, Sequence)
            or len(sizes) != 2
            or not all(isinstance(n, (int, np.integer)) and n >= 5 and n % 2 for n in sizes)
        ):
            raise ValueError(
                f"size must be an odd number of at least 5, or two, (rows, columns): rooms and walls alternate; got {size!r}."
            )
        if not (isinstance(density, (int, float, np.integer, np.floating)) and 0 <= density <= 1):
            raise ValueError(f"density, the share of inner walls that is kept, must be in [0, 1]; got {density!r}.")
        rows, columns = int(sizes[0]), int(sizes[1])
        self.shape = (rows, columns)
        self.density = float(density)
        self.moves = np.array([column + row * columns for column, row in MOVES])
        numbers = np.arange(rows * columns).reshape(self.shape)
        self._all_walls = np.ones(rows * columns, dtype=bool)
        self._all_walls[numbers[1::2, 1::2]] = False
        self._posts = numbers[2:-1:2, 2:-1:2].ravel()
        self._inner_walls = np.concatenate([numbers[1::2, 2:-1:2].ravel(), numbers[2:-1:2, 1::2].ravel()])
        # For each room its neighbours, as (room, the wall between), rooms numbered among themselves.
        self._rooms: list[int] = numbers[1::2, 1::2].ravel().tolist()
        number = {cell: room for room, cell in enumerate(self._rooms)}
        self._neighbours = [
            [(number[cell + 2 * move], cell + move) for move in self.moves.tolist() if cell + 2 * move in number]
            for cell in self._rooms
        ]

    def draw(self, rng: np.random.Generator) -> Maze:
        n = len(self._rooms)
        uniform: list[float] = rng.random(n + 2).tolist()  # one call: a generator's call costs more than a room
        walls = self._all_walls.copy()
        walls[self._tree(uniform)] = False
        if self.density < 1:
            removable = self._inner_walls[walls[self._inner_walls]]
            walls[rng.permutation(removable)[round(self.density * len(removable)) :]] = False
            beside = self._posts[:, None] + self.moves
            walls[self._posts] = walls[beside].any(axis=1)
        start = int(uniform[n] * n)
        order = self._by_distance(start, walls.tolist())
        goal = order[n // 2 + int(uniform[n + 1] * (n - n // 2))]
        return Maze(walls, self._rooms[start], self._rooms[goal])

    def _tree(self, uniform: list[float]) -> list[int]:
        """The walls that a depth-first walk through all rooms opens; ``uniform`` decides its turns."""
        room = int(uniform[0] * len(self._rooms))
        visited = [False] * len(self._rooms)
        visited[room] = True
        path, opened = [room], []
        for number in uniform[1 : len(self._rooms)]:
            while not (new := [way for way in self._neighbours[room] if not visited[way[0]]]):
                path.pop()
                room = path[-1]
            room, wall = new[int(number * len(new))]
            visited[room] = True
            path.append(room)
            opened.append(wall)
        return opened

    def _by_distance(self, start: int, is_wall: list[bool]) -> list[int]:
        """All rooms, the nearest to ``start`` first."""
        seen = [False] * len(self._rooms)
        seen[start] = True
        order = [start]
        for room in order:  # grows on the way
            for neighbour, wall in self._neighbours[room]:
                if not seen[neighbour] and not is_wall[wall]:
                    seen[neighbour] = True
                    order.append(neighbour)
        return order


class _Task:
    """What both forms share: which maze an episode has, where it begins and what is seen of it."""

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
        """The maze of an episode and the cell it begins in."""
        maze = self.fixed or self._draw(rng)
        if not (self.random_start or options.get("random_start", False)):
            return maze, maze.start
        free = np.flatnonzero(~maze.walls)
        place = draw_start(len(free), int(free.searchsorted(maze.goal)), bool(options.get("ignore_goal", False)), rng)
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
        return render_maze(maze.walls.reshape(self.maker.shape), self.place(maze.goal), self.place(cell))

    def place(self, cell: int) -> np.ndarray:
        """(column, row) of a cell."""
        row, column = divmod(cell, self.maker.shape[1])
        return np.array([column, row])

    def _draw(self, rng: np.random.Generator) -> Maze:
        if self._seeds is None:
            return self.maker.draw(rng)
        return self._maze_of(self._seeds[int(rng.integers(len(self._seeds)))])

    def _maze_of(self, seed: int) -> Maze:
        return self.maker.draw(np.random.default_rng(int(seed)))


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
    """A maze drawn anew at every reset, with its start and goal; reward 1 and the end of the episode at the goal, 0 before it.

    Every maze is solvable; how they are drawn says :class:`MazeMaker`. ``reset(seed=s)`` always gives the same maze, which is
    also that of ``maze_seed=s``.

    Observation: float32 ``(column, row, goal column, goal row)`` and, with ``observe_map``, the map, row by row, 1 for a wall.
    Action: 0 left, 1 down, 2 right, 3 up; a move into a wall stays. ``info["is_success"]`` on every step.

    Args:
        size: rows and columns of the map, its border included: one odd number of at least 5 or two.
        density: share of the inner walls of a perfect maze that is kept; 1 a perfect maze, 0 an empty hall.
        maze_seed: ``None`` for new mazes without end, drawn from the environment's generator; an integer for that one maze at
            every reset; or several, ``list(range(200))`` for instance, to draw every episode's maze from those: mazes to learn
            in, while those of other seeds stay unseen.
        random_start: start every episode on a free cell other than the goal, drawn uniformly, instead of in the maze's start.
        observe_map: whether the map is observed; without it a policy can't tell one maze from another.
        render_mode: ``None`` or ``"rgb_array"``.

    ``reset(options={"random_start": True, "ignore_goal": True})`` does so for one episode: start anywhere, and let the
    goal neither pay nor end it.

    >>> import gymnasium as gym, envs
    >>> train = gym.make("sparse/RandomMaze-v0", maze_seed=list(range(200)))
    >>> test = gym.make("sparse/RandomMaze-v0", maze_seed=list(range(1000, 1100)))
    >>> observation, info = test.reset(seed=0)
    >>> observation.shape, observation[4:15]
    ((125,), array([1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1.], dtype=float32))
    """

    metadata: dict[str, Any] = GridMaze.metadata
    position_indices: ClassVar[tuple[int, ...]] = (0, 1)
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
        self._task = _Task(size, density, maze_seed, random_start, observe_map)
        self.render_mode = render_mode
        self.observation_space = self._task.observation_space
        self.action_space = MOVE_SPACE
        self._maze: Maze | None = None
        self._ignore_goal = False
        if self._task.fixed is not None:
            self._enter(self._task.fixed, self._task.fixed.start)

    @property
    def walls(self) -> np.ndarray:
        """The map of the current maze, bool ``[rows, columns]``."""
        return self._current_maze().walls.reshape(self._task.maker.shape).copy()

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """All S states of the current maze and where each action leads, the goal not absorbing.

        Returns:
            observations: float32 ``[S, 4]``, or ``[S, 4 + rows · columns]`` with the map.
            next_states: int ``[S, 4]``, indices into ``observations``.
        """
        return self._task.transition_graph(self._current_maze())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        self._ignore_goal = bool(options.get("ignore_goal", False))
        self._enter(*self._task.begin(options, self.np_random))
        return self._observation.copy(), {"is_success": False}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        check_move(action)
        maze = self._current_maze()
        target = self._cell + int(self._task.maker.moves[action])
        if not maze.walls[target]:
            self._cell = target
            self._observation[:2] = self._task.place(target)
        success = self._cell == maze.goal and not self._ignore_goal
        return self._observation.copy(), float(success), success, False, {"is_success": success}

    def render(self) -> np.ndarray | None:
        return self._task.render(self._current_maze(), self._cell) if self.render_mode == "rgb_array" else None

    def _enter(self, maze: Maze, cell: int) -> None:
        self._maze, self._cell = maze, cell
        self._observation = self._task.observation(maze, cell)

    def _current_maze(self) -> Maze:
        if self._maze is None:
            raise RuntimeError("There is no maze before the first reset: call reset(), or give maze_seed for a fixed one.")
        return self._maze


class RandomMazeVectorEnv(BatchedEnv):
    """``num_envs`` copies of :class:`RandomMaze` under a time limit, each in a maze of its own, stepped at once.

    Args:
        size, density, maze_seed, random_start, observe_map: as in :class:`RandomMaze`; the others as in
            :class:`envs.vector.BatchedEnv`.
    """

    position_indices: ClassVar[tuple[int, ...]] = (0, 1)

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
        self._task = _Task(size, density, maze_seed, random_start, observe_map)
        super().__init__(
            num_envs,
            self._task.observation_space,
            MOVE_SPACE,
            RandomMaze.metadata,
            max_episode_steps,
            render_mode,
            autoreset_mode,
        )
        rows, columns = self._task.maker.shape
        self._mazes: list[Maze | None] = [None] * num_envs
        self._walls = np.ones((num_envs, rows * columns), dtype=bool)
        self._first = np.arange(num_envs) * rows * columns  # where each copy's walls begin
        self._places = np.stack([self._task.place(cell) for cell in range(rows * columns)]).astype(np.float32)
        self._cells = np.zeros(num_envs, dtype=np.int64)
        self._goals = np.zeros(num_envs, dtype=np.int64)
        self._observations = np.zeros((num_envs, *self._task.observation_space.shape), dtype=np.float32)
        self._ignore_goal = np.zeros(num_envs, dtype=bool)

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`RandomMaze.transition_graph`, where all copies share one maze.

        Raises:
            ValueError: each copy has its own maze.
        """
        if self._task.fixed is None:
            raise ValueError(
                f"The {self.num_envs} copies have mazes of their own, which change at every reset, so there is no one "
                "transition graph. Give maze_seed an integer for one maze, or ask a single environment."
            )
        return self._task.transition_graph(self._task.fixed)

    def render(self) -> tuple[np.ndarray, ...] | None:
        if self.render_mode != "rgb_array":
            return None
        mazes = zip(self._mazes, self._cells.tolist(), strict=True)
        return tuple(self._task.render(maze, cell) for maze, cell in mazes if maze is not None)

    def _begin(self, copies: np.ndarray, options: dict[str, Any]) -> None:
        self._ignore_goal[copies] = bool(options.get("ignore_goal", False))
        for index in copies.tolist():  # each copy draws from a generator of its own, like the single environment
            maze, self._cells[index] = self._task.begin(options, self._rng(index))
            if maze is not self._mazes[index]:
                self._mazes[index] = maze
                self._walls[index] = maze.walls
                self._goals[index] = maze.goal
                self._observations[index] = self._task.observation(maze, maze.start)

    def _advance(self, actions: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        targets = self._cells + self._task.maker.moves[actions]
        self._cells = np.where(self._walls.ravel()[self._first + targets], self._cells, targets)
        success = (self._cells == self._goals) & ~self._ignore_goal
        return success.astype(np.float64), success, success.copy()

    def _observe(self, copies: np.ndarray | slice = slice(None)) -> np.ndarray:
        observations = self._observations[copies].copy()
        observations[:, :2] = self._places[self._cells[copies]]
        return observations

    def _check_actions(self, actions: Any) -> np.ndarray:
        return check_moves(actions, self.num_envs)
