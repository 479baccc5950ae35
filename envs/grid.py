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
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.layouts import GridLayout

TILE = 16  # pixels a cell
WALL, FLOOR, GOAL, AGENT = (40, 42, 54), (240, 240, 236), (72, 170, 96), (52, 101, 214)


def _observation_space(layout: GridLayout) -> spaces.Box:
    rows, columns = layout.walls.shape
    return spaces.Box(0, np.array([columns - 1, rows - 1] * 2, dtype=np.float32), dtype=np.float32)


def _render(layout: GridLayout, state: int) -> np.ndarray:
    """One frame, uint8 ``[rows · TILE, columns · TILE, 3]``."""
    image = np.where(layout.walls[..., None], np.array(WALL, dtype=np.uint8), np.array(FLOOR, dtype=np.uint8))
    image[layout.cells[layout.goal][1], layout.cells[layout.goal][0]] = GOAL
    frame = image.repeat(TILE, axis=0).repeat(TILE, axis=1)
    left, top = layout.cells[state] * TILE
    margin = TILE // 4
    frame[top + margin : top + TILE - margin, left + margin : left + TILE - margin] = AGENT
    return frame


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")


class _MazeHooks:
    """What a reward model may ask of a maze without importing it."""

    layout: GridLayout
    position_indices: ClassVar[tuple[int, ...]] = (0, 1)  # the entries of the observation that say where the agent is

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """All S states and where each action leads, the goal not absorbing.

        Returns:
            observations: float32 ``[S, 4]``.
            next_states: int ``[S, 4]``, indices into ``observations``.
        """
        return self.layout.observations.copy(), self.layout.next_state.copy()


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
    >>> env = gym.make("sparse/Maze-v1", layout=["#####", "#S G#", "#####"])
    >>> observation, info = env.reset(seed=0)
    >>> observation
    array([1., 1., 3., 1.], dtype=float32)
    >>> env.step(2)[1:3], env.step(2)[1:3]
    ((0.0, False), (1.0, True))
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's convention)

    def __init__(
        self, layout: str | Sequence[str] = "Maze-v1", random_start: bool = False, render_mode: str | None = None
    ) -> None:
        _check_render_mode(render_mode)
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
            self._state = _draw_start(self.layout, self._ignore_goal, self.np_random)
        else:
            self._state = self.layout.start
        return self.layout.observations[self._state].copy(), {"is_success": False}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"Invalid action {action!r}; expected an integer 0 (left), 1 (down), 2 (right) or 3 (up).")
        self._state = int(self.layout.next_state[self._state, action])
        success = self._state == self.layout.goal and not self._ignore_goal
        return self.layout.observations[self._state].copy(), float(success), success, False, {"is_success": success}

    def render(self) -> np.ndarray | None:
        return _render(self.layout, self._state) if self.render_mode == "rgb_array" else None


def _draw_start(layout: GridLayout, ignore_goal: bool, rng: np.random.Generator) -> int:
    if ignore_goal:
        return int(rng.integers(len(layout.cells)))
    state = int(rng.integers(len(layout.cells) - 1))
    return state + (state >= layout.goal)  # skip the goal


class GridMazeVectorEnv(_MazeHooks, VectorEnv):
    """``num_envs`` copies of :class:`GridMaze` under a time limit, stepped at once by table lookup.

    Every copy has its own seed, may be reset alone through ``reset(options={"reset_mask": mask})`` in every autoreset
    mode, and reports ``info`` in the layout of Gymnasium's ``SyncVectorEnv``.

    Args:
        num_envs: number of copies n.
        layout, random_start, render_mode: as in :class:`GridMaze`.
        max_episode_steps: time limit of an episode, ``None`` for none.
        autoreset_mode: ``NEXT_STEP`` (Gymnasium's default), ``SAME_STEP`` or ``DISABLED``; a constructor argument because
            ``gym.make_vec`` takes no ``vector_kwargs`` for native vector environments.
    """

    def __init__(
        self,
        num_envs: int = 1,
        layout: str | Sequence[str] = "Maze-v1",
        random_start: bool = False,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        _check_render_mode(render_mode)
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        self.layout = GridLayout.parse(layout)
        self.num_envs = num_envs
        self.random_start = random_start
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**GridMaze.metadata, "autoreset_mode": self.autoreset_mode, "independent_copies": True}
        self.single_observation_space = _observation_space(self.layout)
        self.single_action_space = spaces.Discrete(4)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self._next_state = self.layout.next_state.ravel()  # one flat lookup is twice as fast as a two-dimensional one
        self._seeds: list[int | None] = [None] * num_envs
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._states = np.full(num_envs, self.layout.start)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._ignore_goal = np.zeros(num_envs, dtype=bool)
        self._done = np.zeros(num_envs, dtype=bool)
        self._everyone = np.ones(num_envs, dtype=bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        options = options or {}
        mask = self._check_mask(options.get("reset_mask", self._everyone))
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else seed
        if seeds is not None:
            if len(seeds) != self.num_envs:
                raise ValueError(f"Expected one seed for each of the {self.num_envs} copies, got {len(seeds)}.")
            for index in np.flatnonzero(mask).tolist():
                if seeds[index] is not None:
                    self._seeds[index], self._rngs[index] = seeds[index], None
        self._reset_copies(mask, options)
        return self.layout.observations[self._states], {"is_success": np.zeros(self.num_envs, dtype=bool), "_is_success": mask}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        actions = self._check_actions(actions)
        layout, resetting = self.layout, None
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._done.any():
            resetting = self._done.copy()
        elif self.autoreset_mode is AutoresetMode.DISABLED and self._done.any():
            raise RuntimeError(
                f"Copies {np.flatnonzero(self._done).tolist()} are done; with autoreset_mode=DISABLED reset them first: "
                "reset(options={'reset_mask': done})."
            )

        self._states = self._next_state[self._states * 4 + actions]
        self._elapsed += 1
        success = (self._states == layout.goal) & ~self._ignore_goal
        truncated = self._elapsed >= self.max_episode_steps if self.max_episode_steps else np.zeros(self.num_envs, dtype=bool)
        if resetting is not None:
            self._reset_copies(resetting)
            success &= ~resetting
            truncated &= ~resetting
        self._done = success | truncated

        info: dict[str, Any] = {"is_success": success.copy(), "_is_success": self._everyone.copy()}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._done.any():
            info = self._final_info(info, self._done)
            self._reset_copies(self._done.copy())
        return layout.observations[self._states], success.astype(np.float64), success, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        if self.render_mode != "rgb_array":
            return None
        return tuple(_render(self.layout, state) for state in self._states)

    def _reset_copies(self, mask: np.ndarray, options: dict[str, Any] | None = None) -> None:
        options = options or {}
        ignore_goal = bool(options.get("ignore_goal", False))
        self._elapsed[mask] = 0
        self._done[mask] = False
        self._ignore_goal[mask] = ignore_goal
        self._states[mask] = self.layout.start
        if self.random_start or options.get("random_start", False):
            for index in np.flatnonzero(
                mask
            ).tolist():  # each copy draws from a generator of its own, like the single environment
                self._states[index] = _draw_start(self.layout, ignore_goal, self._rng(index))

    def _rng(self, index: int) -> np.random.Generator:
        rng = self._rngs[index]
        if rng is None:  # made on the first draw: most mazes never draw, and a generator costs 10 µs
            rng, self._seeds[index] = gym.utils.seeding.np_random(self._seeds[index])
            self._rngs[index] = rng
        return rng

    def _final_info(self, info: dict[str, Any], done: np.ndarray) -> dict[str, Any]:
        final_obs = np.full(self.num_envs, None, dtype=object)
        for index, observation in zip(np.flatnonzero(done), self.layout.observations[self._states[done]], strict=True):
            final_obs[index] = observation
        return {
            "final_obs": final_obs,
            "_final_obs": done.copy(),
            "final_info": {"is_success": info["is_success"] & done, "_is_success": done.copy()},
            "_final_info": done.copy(),
            "is_success": info["is_success"] & ~done,  # the reset's info stands here for a copy that just ended
            "_is_success": info["_is_success"],
        }

    def _check_mask(self, mask: Any) -> np.ndarray:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(f"options['reset_mask'] must be a bool array of shape ({self.num_envs},), got {mask!r}.")
        return mask.copy()

    def _check_actions(self, actions: Any) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(
                f"Expected integer actions of shape ({self.num_envs},), got shape {actions.shape} of {actions.dtype}."
            )
        if actions.min() < 0 or actions.max() > 3:
            bad = np.flatnonzero((actions < 0) | (actions > 3))[0]
            raise ValueError(
                f"Invalid action {actions[bad]} for copy {bad}; expected 0 (left), 1 (down), 2 (right) or 3 (up)."
            )
        return actions
