"""Flat observations of Gymnasium-Robotics' goal environments."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces


def flatten_goal_observation(observation: dict[str, np.ndarray]) -> np.ndarray:
    """Return ``observation``, ``achieved_goal`` and ``desired_goal`` as one vector, in this order."""
    return np.concatenate([observation["observation"], observation["achieved_goal"], observation["desired_goal"]])


def flat_goal_space(space: spaces.Dict) -> spaces.Box:
    """Return the space of the vectors that :func:`flatten_goal_observation` makes."""
    size = sum(part.shape[0] for part in space.spaces.values() if part.shape)
    return spaces.Box(-np.inf, np.inf, (size,), np.float64)
