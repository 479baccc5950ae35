"""A chain of states: the smallest task in which random actions almost never find the reward."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.action_checks import check_discrete, check_integer, check_option, check_render_mode
from envs.grid import GridMaze
from envs.rendering import render_grid

OBSERVATIONS = ("one_hot", "scalar")


class Chain(gym.Env[np.ndarray, np.int64]):
    """Walk from the left end of a chain to the right end; reward 1 and the end of the episode there, 0 before it.

    One of the two actions moves right and the other left; which is which differs from state to state, so that no constant
    action reaches the end. A move left in the first state stays there. ``length - 1`` correct actions in a row solve the task,
    and a horizon of ``length + 9`` steps, as in the exploration benchmarks on chains (Osband et al., arXiv 1602.04621),
    forgives at most five wrong ones. ``info["is_success"]`` on every step.

    The registered time limit, 29 steps, is that of the default length; it does not follow the argument. For another
    length give both, ``gym.make("sparse/Chain-v0", length=50, max_episode_steps=59)``: with the limit of 29 the reward of that
    chain cannot be reached.

    Args:
        length: number of states, at least 3.
        action_seed: seed of the meaning of the actions; ``None``: action 1 moves right in every state.
        observation: ``"one_hot"``, float32 ``[length]``, or ``"scalar"``, the state divided by ``length - 1``, float32
            ``[1]``.
        render_mode: ``None`` or ``"rgb_array"``.

    >>> import gymnasium as gym, envs
    >>> env = gym.make("sparse/Chain-v0", length=3, action_seed=None, max_episode_steps=12)
    >>> env.reset(seed=0)[0]
    array([1., 0., 0.], dtype=float32)
    >>> env.step(1)[1:3], env.step(1)[1:3]
    ((0.0, False), (1.0, True))
    """

    metadata: dict[str, Any] = GridMaze.metadata
    action_meaning: ClassVar[str] = "0 or 1"

    def __init__(
        self, length: int = 20, action_seed: int | None = 0, observation: str = "one_hot", render_mode: str | None = None
    ) -> None:
        check_render_mode(render_mode)
        self.length = check_integer("length", length, 3)
        check_option("observation", observation, OBSERVATIONS)
        self.render_mode = render_mode
        right = np.ones(self.length, dtype=np.int64)  # the action that moves right, by state
        if action_seed is not None:
            right = np.random.default_rng(action_seed).integers(2, size=self.length)
            right[self.length // 2] = 1 - right[0]  # at least one state differs from the others
        states = np.arange(self.length)
        self._next = np.empty((self.length, 2), dtype=np.int64)
        self._next[states, right] = np.minimum(states + 1, self.length - 1)
        self._next[states, 1 - right] = np.maximum(states - 1, 0)
        one_hot = observation == "one_hot"
        self._observations = (np.eye(self.length) if one_hot else states[:, None] / (self.length - 1)).astype(np.float32)
        self.observation_space = spaces.Box(0, 1, self._observations.shape[1:], dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self._state = 0

    def transition_graph(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all states and where each action leads, the right end not absorbing.

        Returns:
            observations: float32 ``[length, …]``.
            next_states: int ``[length, 2]``, indices into ``observations``.
        """
        return self._observations.copy(), self._next.copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = 0
        return self._observations[0].copy(), {"is_success": False}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        check_discrete(action, self.action_space, self.action_meaning)
        self._state = int(self._next[self._state, action])
        success = self._state == self.length - 1
        return self._observations[self._state].copy(), float(success), success, False, {"is_success": success}

    def render(self) -> np.ndarray | None:
        if self.render_mode != "rgb_array":
            return None
        return render_grid(np.zeros((1, self.length), dtype=bool), np.array([self.length - 1, 0]), np.array([self._state, 0]))
