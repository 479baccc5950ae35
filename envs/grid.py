"""Grid mazes paid on success: ``GridMaze`` and its vectorised twin ``GridMazeVectorEnv``.

Both read the same tables (``envs.layouts.GridLayout``); n copies of the twin give bit for bit the trajectories of n
single environments under the same seeds and actions, whatever the autoreset mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs.action_checks import check_discrete, check_discretes, check_render_mode
from envs.layouts import GridLayout
from envs.vector import BatchedEnv

TILE = 16  # pixels a cell
WALL, FLOOR, GOAL, AGENT = (40, 42, 54), (240, 240, 236), (72, 170, 96), (52, 101, 214)
MOVE_SPACE = spaces.Discrete(4)
_MOVES = "0 (left), 1 (down), 2 (right) or 3 (up)"


def _observation_space(layout: GridLayout) -> spaces.Box:
    rows, columns = layout.walls.shape
    return spaces.Box(0, np.array([columns - 1, rows - 1] * 2, dtype=np.float32), dtype=np.float32)


def render_maze(walls: np.ndarray, goal: np.ndarray, agent: np.ndarray | None) -> np.ndarray:
    """One frame, uint8 ``[rows · TILE, columns · TILE, 3]``; ``goal`` and, unless ``None``, ``agent`` are (column, row)."""
    image = np.where(walls[..., None], np.array(WALL, dtype=np.uint8), np.array(FLOOR, dtype=np.uint8))
    image[goal[1], goal[0]] = GOAL
    frame = image.repeat(TILE, axis=0).repeat(TILE, axis=1)
    if agent is None:
        return frame
    left, top = agent * TILE
    margin = TILE // 4
    frame[top + margin : top + TILE - margin, left + margin : left + TILE - margin] = AGENT
    return frame


class _MazeHooks:
    """What both forms have: the layout's frames, and what a reward model may ask of a maze without importing it."""

    layout: GridLayout
    position_indices: ClassVar[tuple[int, ...]] = (0, 1)  # the entries of the observation that say where the agent is

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """All S states and where each action leads, the goal not absorbing.

        Returns:
            observations: float32 ``[S, 4]``.
            next_states: int ``[S, 4]``, indices into ``observations``.
        """
        return self.layout.observations.copy(), self.layout.next_state.copy()

    def _frame(self, state: int) -> np.ndarray:
        cells = self.layout.cells
        return render_maze(self.layout.walls, cells[self.layout.goal], cells[state])


class GridMaze(_MazeHooks, gym.Env[np.ndarray, np.int64]):
    """A maze of walls and free cells; reward 1 and the end of the episode at the goal, 0 before it.

    Observation: float32 ``(column, row, goal column, goal row)``. Action: 0 left, 1 down, 2 right, 3 up; a move into a
    wall stays. ``info["is_success"]`` on every step. Source: Cho & Tran, arXiv 2601.21391.

    Args:
        layout: a name in ``envs.layouts.GRID_LAYOUTS`` or a map of one's own: rows of ``#``, space, one ``S``, one ``G``.
        random_start: start every episode on a free cell other than the goal, drawn uniformly, instead of on ``S``.
        render_mode: ``None`` or ``"rgb_array"``.

    ``reset(options={"random_start": True, "ignore_goal": True})`` does so for one episode: start anywhere, and let the
    goal neither pay nor end it (what the random walks of a Laplacian reward want).

    >>> import gymnasium as gym, envs
    >>> env = gym.make("sparse/Maze1-v0", layout=["#####", "#S G#", "#####"])
    >>> observation, info = env.reset(seed=0)
    >>> observation
    array([1., 1., 3., 1.], dtype=float32)
    >>> env.step(2)[1:3], env.step(2)[1:3]
    ((0.0, False), (1.0, True))
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's convention)

    def __init__(
        self, layout: str | Sequence[str] = "Maze1", random_start: bool = False, render_mode: str | None = None
    ) -> None:
        check_render_mode(render_mode)
        self.layout = GridLayout.parse(layout)
        self.random_start = random_start
        self.render_mode = render_mode
        self.observation_space = _observation_space(self.layout)
        self.action_space = spaces.Discrete(4)
        self._state = self.layout.start
        self._ignore_goal = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        self._ignore_goal = bool(options.get("ignore_goal", False))
        if self.random_start or options.get("random_start", False):
            self._state = draw_start(len(self.layout.cells), self.layout.goal, self._ignore_goal, self.np_random)
        else:
            self._state = self.layout.start
        return self.layout.observations[self._state].copy(), {"is_success": False}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        check_move(action)
        self._state = int(self.layout.next_state[self._state, action])
        success = self._state == self.layout.goal and not self._ignore_goal
        return self.layout.observations[self._state].copy(), float(success), success, False, {"is_success": success}

    def render(self) -> np.ndarray | None:
        return self._frame(self._state) if self.render_mode == "rgb_array" else None


def draw_start(n_cells: int, goal: int, ignore_goal: bool, rng: np.random.Generator) -> int:
    """The index of a free cell, uniformly, other than the goal's unless that does not count."""
    if ignore_goal:
        return int(rng.integers(n_cells))
    state = int(rng.integers(n_cells - 1))
    return state + (state >= goal)  # skip the goal


class GridMazeVectorEnv(_MazeHooks, BatchedEnv):
    """``num_envs`` copies of :class:`GridMaze` under a time limit, stepped at once by table lookup.

    Every copy has its own seed, may be reset alone through ``reset(options={"reset_mask": mask})`` in every autoreset
    mode, and reports ``info`` in the layout of Gymnasium's ``SyncVectorEnv``.

    Args:
        layout, random_start: as in :class:`GridMaze`; the others as in :class:`envs.vector.BatchedEnv`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        layout: str | Sequence[str] = "Maze1",
        random_start: bool = False,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.layout = GridLayout.parse(layout)
        self.random_start = random_start
        super().__init__(
            num_envs,
            _observation_space(self.layout),
            spaces.Discrete(4),
            GridMaze.metadata,
            max_episode_steps,
            render_mode,
            autoreset_mode,
        )
        self._next_state = self.layout.next_state.ravel()  # one flat lookup is twice as fast as a two-dimensional one
        self._states = np.full(num_envs, self.layout.start)
        self._ignore_goal = np.zeros(num_envs, dtype=bool)

    def render(self) -> tuple[np.ndarray, ...] | None:
        if self.render_mode != "rgb_array":
            return None
        return tuple(self._frame(state) for state in self._states)

    def _begin(self, copies: np.ndarray, options: dict[str, Any]) -> None:
        ignore_goal = bool(options.get("ignore_goal", False))
        self._ignore_goal[copies] = ignore_goal
        self._states[copies] = self.layout.start
        if self.random_start or options.get("random_start", False):
            for index in copies.tolist():  # each copy draws from a generator of its own, like the single environment
                self._states[index] = draw_start(len(self.layout.cells), self.layout.goal, ignore_goal, self._rng(index))

    def _advance(self, actions: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._states = self._next_state[self._states * 4 + actions]
        success = (self._states == self.layout.goal) & ~self._ignore_goal
        return success.astype(np.float64), success, success.copy()

    def _observe(self, copies: np.ndarray | slice = slice(None)) -> np.ndarray:
        return self.layout.observations[self._states[copies]]

    def _check_actions(self, actions: Any) -> np.ndarray:
        return check_moves(actions, self.num_envs)


def check_move(action: Any) -> None:
    """Raise a ValueError unless ``action`` is an integer 0 to 3."""
    check_discrete(action, MOVE_SPACE, _MOVES)


def check_moves(actions: Any, num_envs: int) -> np.ndarray:
    """Moves 0 to 3 as an int array ``[n]``, or a ValueError."""
    return check_discretes(actions, num_envs, MOVE_SPACE, _MOVES)
