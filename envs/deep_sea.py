"""bsuite's Deep Sea: ``DeepSea`` and its vectorised form ``DeepSeaVectorEnv``, which reads the same tables."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs.action_checks import check_discrete, check_integer, check_render_mode
from envs.grid import GridMaze
from envs.rendering import render_grid
from envs.vector import BatchedEnv

MOVE_COST = 0.01  # of moving right in every one of the N steps


class _Sea:
    """The rules as tables over N² + 1 states: the cells, row by row, and the end below the last row.

    Attributes:
        next_state: int ``[N² + 1, 2]``, the state after each action.
        reward: float64 ``[N² + 1, 2]``.
        treasure: bool ``[N² + 1, 2]``, whether that action gets the treasure.
        end: the index of the end, N².
    """

    def __init__(self, size: int, action_seed: int) -> None:
        self.size = check_integer("size", size, 2, meaning="the rows and columns of the sea")
        check_integer("action_seed", action_seed, 0, 2**32 - 1)
        self.end = self.size**2
        # NumPy's legacy generator, whose streams never change: bsuite samples the same for the same mapping_seed.
        self.action_right = np.random.RandomState(action_seed).binomial(1, 0.5, (self.size, self.size))
        row, column = np.divmod(np.arange(self.end), self.size)
        right = self.action_right.reshape(-1, 1) == np.arange(2)
        next_column = np.clip(column[:, None] + np.where(right, 1, -1), 0, self.size - 1)
        self.next_state = np.full((self.end + 1, 2), self.end)
        self.next_state[:-1] = np.minimum((row[:, None] + 1) * self.size + next_column, self.end)
        self.treasure = np.zeros((self.end + 1, 2), dtype=bool)
        self.treasure[self.end - 1] = right[-1]
        self.reward = self.treasure.astype(np.float64)
        self.reward[:-1] -= right * (MOVE_COST / self.size)

    @property
    def observation_space(self) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (self.end,), np.float32)

    def observe(self, states: np.ndarray) -> np.ndarray:
        """Return the observations float32 ``[n, N²]`` of ``states`` ``[n]``."""
        observations = np.zeros((len(states), self.end), dtype=np.float32)
        inside = np.flatnonzero(states < self.end)
        observations[inside, states[inside]] = 1.0
        return observations

    def reachable_states(self) -> np.ndarray:
        """Return the states that can be reached, the last one the end."""
        row, column = np.divmod(np.arange(self.end), self.size)
        return np.append(np.flatnonzero(column <= row), self.end)

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        states = self.reachable_states()
        index = np.full(self.end + 1, -1)
        index[states] = np.arange(len(states))
        return self.observe(states), index[self.next_state[states]]

    def render(self, state: int) -> np.ndarray:
        out_of_reach = np.triu(np.ones((self.size, self.size), dtype=bool), k=1)
        row, column = divmod(state, self.size)
        return render_grid(out_of_reach, np.full(2, self.size - 1), None if state == self.end else np.array([column, row]))


class DeepSea(gym.Env[np.ndarray, np.int64]):
    """bsuite's Deep Sea, deterministic: N steps down, and a treasure for going right in every one of them.

    An episode begins in the top left cell of an N × N grid and lasts exactly N steps, after which it terminates; no time
    limit is needed. Every step goes down one row, and left or right by one column; at the left and right edges the column
    stays. Which of the two actions is right was sampled once for each cell, from ``action_seed``.

    Reward: -0.01/N for every step to the right, also for the last and also at the edge, and 0 for a step to the left. To go
    right from the bottom right cell, in the last step, gets the treasure: 1 more. Unlike in most tasks here, **the reward
    before success is not 0 but slightly negative**: the optimal return is 0.99, never going right returns 0, and uniformly
    random actions get the treasure in one of 2^N episodes. ``info["is_success"]`` on every step: whether it got the treasure.

    Observation: float32 ``[N²]``, the cell as a one-hot vector, row by row; zeros after the last step. Action: 0 or 1.

    Source: Osband et al., "Behaviour Suite for Reinforcement Learning", arXiv 1908.03568; ``deep_sea`` of bsuite with
    ``deterministic=True``. Sizes of its experiments: 10, 12, …, 50, all with ``mapping_seed=42``.

    Args:
        size: N, rows and columns of the grid; at least 2.
        action_seed: which action is right in which cell; equal to bsuite's ``mapping_seed``. The environment's own seed
            decides nothing, because nothing else is random.
        render_mode: ``None`` or ``"rgb_array"``; cells that can't be reached are dark.

    >>> import gymnasium as gym, envs
    >>> env = gym.make("sparse/DeepSea-v0", size=4)
    >>> observation, info = env.reset(seed=0)
    >>> right = env.unwrapped.action_right
    >>> steps = [env.step(right[row, row]) for row in range(4)]
    >>> round(sum(reward for _, reward, *_ in steps), 6), steps[-1][2], steps[-1][4]
    (0.99, True, {'is_success': True})
    """

    metadata: dict[str, Any] = GridMaze.metadata
    action_meaning: ClassVar[str] = "0 or 1; which of them is left and which is right depends on the cell"

    def __init__(self, size: int = 10, action_seed: int = 42, render_mode: str | None = None) -> None:
        check_render_mode(render_mode)
        self._sea = _Sea(size, action_seed)
        self.render_mode = render_mode
        self.observation_space = self._sea.observation_space
        self.action_space = spaces.Discrete(2)
        self._state = 0

    @property
    def action_right(self) -> np.ndarray:
        """The action that is right, int ``[N, N]`` by row and column."""
        return self._sea.action_right.copy()

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all S = N(N + 1)/2 + 1 states that can be reached, the last one the end, and where each action leads.

        No path leads back up, and the end leads to itself.

        Returns:
            observations: float32 ``[S, N²]``.
            next_states: int ``[S, 2]``, indices into ``observations``.
        """
        return self._sea.transition_graph()

    def success_transitions(self) -> np.ndarray:
        """Return which transitions of :meth:`transition_graph` are a success, bool ``[S, 2]``."""
        return self._sea.treasure[self._sea.reachable_states()]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = 0
        return self._observe(), {"is_success": False}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        check_discrete(action, self.action_space, self.action_meaning)
        before, self._state = self._state, int(self._sea.next_state[self._state, action])
        success = bool(self._sea.treasure[before, action])
        reward = float(self._sea.reward[before, action])
        return self._observe(), reward, self._state == self._sea.end, False, {"is_success": success}

    def render(self) -> np.ndarray | None:
        return self._sea.render(self._state) if self.render_mode == "rgb_array" else None

    def _observe(self) -> np.ndarray:
        return self._sea.observe(np.array([self._state]))[0]


class DeepSeaVectorEnv(BatchedEnv):
    """``num_envs`` environments like :class:`DeepSea`, stepped together by table lookup.

    Args:
        num_envs: number of environments.
        size: as in :class:`DeepSea`.
        action_seed: as in :class:`DeepSea`; all environments have the same sea.
        max_episode_steps: time limit of an episode in steps; ``None``, because every episode ends after ``size`` steps.
        render_mode: ``None`` or ``"rgb_array"``.
        autoreset_mode: see :class:`envs.vector.BatchedEnv`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        size: int = 10,
        action_seed: int = 42,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        self._single = DeepSea(size, action_seed, render_mode)
        super().__init__(num_envs, self._single, max_episode_steps, autoreset_mode)
        self._sea = self._single._sea
        self._states = np.zeros(num_envs, dtype=np.int64)

    @property
    def action_right(self) -> np.ndarray:
        """The action that is right, int ``[N, N]`` by row and column."""
        return self._single.action_right

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`DeepSea.transition_graph`."""
        return self._single.transition_graph()

    def _begin(self, indices: np.ndarray, options: dict[str, Any]) -> None:
        self._states[indices] = 0

    def _advance(self, actions: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rewards = self._sea.reward[self._states, actions]
        success = self._sea.treasure[self._states, actions]
        self._states = self._sea.next_state[self._states, actions]
        return rewards, self._states == self._sea.end, success

    def _observe(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        return self._sea.observe(self._states[indices])

    def _frame(self, index: int) -> np.ndarray:
        return self._sea.render(int(self._states[index]))
