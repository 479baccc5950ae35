"""Checks that an algorithm can train in an environment, made before the first step."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

_SHIFT = "gymnasium.wrappers.TransformObservation or TransformAction can shift it"


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Refuse spaces for which SB3's policies give actions outside the space, or fail in the first step.

    Args:
        observation_space: of the environment.
        action_space: of the environment.

    Raises:
        ValueError: for discrete spaces that do not start at 0, multi-dimensional ``MultiDiscrete`` spaces, observations
            without dimension, and actions that are integers of a ``Box``.
    """
    parts = observation_space.spaces.items() if isinstance(observation_space, spaces.Dict) else [("", observation_space)]
    for key, space in parts:
        name = f"The observation space{f' of {key!r}' if key else ''}"
        _check_start(name, space)
        if isinstance(space, spaces.Box) and space.shape == ():
            raise ValueError(
                f"{name} has no dimension, {space}; gymnasium.wrappers.ReshapeObservation(env, (1,)) gives it one."
            )
    _check_start("The action space", action_space)
    if isinstance(action_space, spaces.Box) and not np.issubdtype(action_space.dtype, np.floating):
        raise ValueError(
            f"The action space has integers, {action_space}, but a Gaussian policy acts in real numbers; use MultiDiscrete."
        )


def _check_start(name: str, space: spaces.Space) -> None:
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
        raise ValueError(f"{name} must start at 0, got {space}; {_SHIFT}.")
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim > 1:
        raise ValueError(
            f"{name} must be one-dimensional, got {space}; gymnasium.wrappers.FlattenObservation flattens observations."
        )


def check_early_resets(env: VecEnv | None) -> None:
    """Refuse environments that may not be reset within an episode.

    Args:
        env: the environment.

    Raises:
        ValueError: for a ``Monitor`` with ``allow_early_resets=False``.
    """
    if env is not None and env.has_attr("allow_early_resets") and not all(env.get_attr("allow_early_resets")):
        raise ValueError(
            "This algorithm resets environments within an episode, to let another policy act or after the random steps on "
            "which an intrinsic reward is fitted; use Monitor(env, allow_early_resets=True), which is the default."
        )
