"""Grid mazes with a reward at the goal: ``GridMaze`` and its vectorised form ``GridMazeVectorEnv``.

Both read the same tables (:class:`envs.grid.layouts.GridLayout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs.action_checks import check_discrete, check_render_mode
from envs.grid.layouts import GridLayout
from envs.rendering import render_grid
from envs.reset_options import ResetOptions
from envs.vector import BatchedEnv

MOVE_MEANING = "0 (left), 1 (down), 2 (right) or 3 (up)"


class GridMaze(gym.Env[np.ndarray, np.int64]):
    """A maze of walls and free cells; reward 1 and the end of the episode at the goal, 0 before it.

    Observation: float32 ``(column, row, goal column, goal row)``. Action: 0 left, 1 down, 2 right, 3 up; a move into a
    wall stays. ``info["is_success"]`` on every step. ``reset`` takes :class:`envs.reset_options.ResetOptions`.
    Source: Cho & Tran, arXiv 2601.21391.

    Args:
        layout: a name in ``envs.GRID_LAYOUTS`` or a map of your own: rows of ``#``, space, one ``S``, one ``G``.
        random_start: start every episode on a free cell other than the goal, sampled uniformly, instead of on ``S``.
        render_mode: ``None`` or ``"rgb_array"``.

    >>> import gymnasium as gym, envs
    >>> env = gym.make("sparse/Maze1-v0", layout=["#####", "#S G#", "#####"])
    >>> observation, info = env.reset(seed=0)
    >>> observation
    array([1., 1., 3., 1.], dtype=float32)
    >>> env.step(2)[1:3], env.step(2)[1:3]
    ((0.0, False), (1.0, True))
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's convention)
    position_indices: ClassVar[tuple[int, ...]] = (0, 1)  # the entries of the observation that say where the agent is
    action_meaning: ClassVar[str] = MOVE_MEANING

    def __init__(
        self, layout: str | Sequence[str] = "Maze1", random_start: bool = False, render_mode: str | None = None
    ) -> None:
        check_render_mode(render_mode)
        self.layout = GridLayout.parse(layout)
        self.random_start = random_start
        self.render_mode = render_mode
        rows, columns = self.layout.walls.shape
        self.observation_space = spaces.Box(0, np.array([columns - 1, rows - 1] * 2, dtype=np.float32), dtype=np.float32)
        self.action_space = spaces.Discrete(4)
        self._state = self.layout.start
        self._ignore_goal = False

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all S states and where each action leads, the goal not absorbing.

        Returns:
            observations: float32 ``[S, 4]``.
            next_states: int ``[S, 4]``, indices into ``observations``.
        """
        return self.layout.observations.copy(), self.layout.next_state.copy()

    def success_transitions(self) -> np.ndarray:
        """Return which transitions of :meth:`transition_graph` are a success, bool ``[S, 4]``."""
        return self.layout.next_state == self.layout.goal

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        random_start, self._ignore_goal = ResetOptions.read(options, self.random_start)
        self._state = self.layout.start
        if random_start:
            self._state = sample_start(len(self.layout.cells), self.layout.goal, self._ignore_goal, self.np_random)
        return self.layout.observations[self._state].copy(), {"is_success": False}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        check_discrete(action, self.action_space, self.action_meaning)
        self._state = int(self.layout.next_state[self._state, action])
        success = self._state == self.layout.goal and not self._ignore_goal
        return self.layout.observations[self._state].copy(), float(success), success, False, {"is_success": success}

    def render(self) -> np.ndarray | None:
        return self._frame(self._state) if self.render_mode == "rgb_array" else None

    def _frame(self, state: int) -> np.ndarray:
        cells = self.layout.cells
        return render_grid(self.layout.walls, cells[self.layout.goal], cells[state])


def sample_start(n_cells: int, goal: int, ignore_goal: bool, rng: np.random.Generator) -> int:
    """Return the index of a free cell, sampled uniformly; never the goal's, unless the goal is ignored."""
    if ignore_goal:
        return int(rng.integers(n_cells))
    state = int(rng.integers(n_cells - 1))
    return state + (state >= goal)  # skip the goal


class GridMazeVectorEnv(BatchedEnv):
    """``num_envs`` environments like :class:`GridMaze` under a time limit, stepped together by table lookup.

    Args:
        num_envs: number of environments.
        layout: as in :class:`GridMaze`; all environments have the same map.
        random_start: as in :class:`GridMaze`.
        max_episode_steps: time limit of an episode in steps, ``None`` for none.
        render_mode: ``None`` or ``"rgb_array"``.
        autoreset_mode: see :class:`envs.vector.BatchedEnv`.
    """

    position_indices: ClassVar[tuple[int, ...]] = GridMaze.position_indices

    def __init__(
        self,
        num_envs: int = 1,
        layout: str | Sequence[str] = "Maze1",
        random_start: bool = False,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        self._single = GridMaze(layout, random_start, render_mode)
        super().__init__(num_envs, self._single, max_episode_steps, autoreset_mode)
        self.layout = self._single.layout
        self._next_state = self.layout.next_state.ravel()  # one flat lookup is twice as fast as a two-dimensional one
        self._states = np.full(num_envs, self.layout.start)

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`GridMaze.transition_graph`."""
        return self._single.transition_graph()

    def _begin(self, indices: np.ndarray, options: dict[str, Any]) -> None:
        random_start, ignore_goal = ResetOptions.read(options, self._single.random_start)
        self._states[indices] = self.layout.start
        if random_start:
            for index in indices.tolist():  # one by one, because each samples from its own generator
                self._states[index] = sample_start(len(self.layout.cells), self.layout.goal, ignore_goal, self._rng(index))

    def _advance(self, actions: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._states = self._next_state[self._states * 4 + actions]
        return self._reward_at_goal(self._states == self.layout.goal)

    def _observe(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        return self.layout.observations[self._states[indices]]

    def _frame(self, index: int) -> np.ndarray:
        return self._single._frame(self._states[index])
