"""An environment with any spaces, rewards, episode lengths and faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


@dataclass(frozen=True)
class Oddity:
    """What an :class:`OddEnv` does.

    Args:
        rewards: given in turn.
        length: steps of an episode.
        truncates: whether its end is a truncation.
        fault: ``"nan observation"``, ``"inf observation"``, ``"no end"``, or None.
        at: step of an episode at which the observation is at fault.
    """

    rewards: tuple[Any, ...] = (0.0, 1.0)
    length: int = 5
    truncates: bool = False
    fault: str | None = None
    at: int = 2


class OddEnv(gym.Env):
    """An environment of random observations."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, oddity: Oddity) -> None:
        self.observation_space, self.action_space, self.oddity = observation_space, action_space, oddity
        self.total = 0

    def _see(self) -> Any:
        observation = self.observation_space.sample()
        if self.oddity.fault in ("nan observation", "inf observation") and self.elapsed == self.oddity.at:
            parts = observation.values() if isinstance(observation, dict) else [observation]
            for part in parts:
                if isinstance(part, np.ndarray) and np.issubdtype(part.dtype, np.floating) and part.size:
                    part.flat[0] = np.nan if self.oddity.fault.startswith("nan") else np.inf
        return observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.elapsed = 0
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.elapsed += 1
        self.total += 1
        over = self.elapsed >= self.oddity.length and self.oddity.fault != "no end"
        reward = self.oddity.rewards[self.total % len(self.oddity.rewards)]
        return self._see(), reward, over and not self.oddity.truncates, over and self.oddity.truncates, {}
