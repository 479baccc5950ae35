"""The space of original observations."""

from __future__ import annotations

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize


def original_observation_space(env: VecEnv) -> spaces.Space:
    """Return the space of the observations beneath any ``VecNormalize``, which are those of intrinsic reward models."""
    normalize = unwrap_vec_normalize(env)
    return env.observation_space if normalize is None else normalize.venv.observation_space
