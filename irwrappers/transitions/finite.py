"""Find NaN and infinity in what an environment returned."""

from __future__ import annotations

from typing import Any

import numpy as np


class FiniteCheck:
    """Raise on NaN and infinity, naming environment and step; integer observations are not checked.

    Args:
        observations: ``[B, …]`` (or a dict of such), whose types say which entries are checked.
    """

    def __init__(self, observations: Any) -> None:
        keys = observations.keys() if isinstance(observations, dict) else [None]
        self._floating = [key for key in keys if np.issubdtype(self._pick(observations, key).dtype, np.floating)]

    @staticmethod
    def _pick(observations: Any, key: str | None) -> np.ndarray:
        return observations if key is None else observations[key]

    def observations(self, observations: Any, when: str) -> None:
        """Check observations ``[B, …]``.

        Raises:
            ValueError: one is not finite; ``when`` ("at step 3", "after reset") is part of the message.
        """
        for key in self._floating:
            value = self._pick(observations, key)
            if not np.isfinite(value).all():
                index = int(np.argwhere(~np.isfinite(value))[0][0])
                name = "observation" if key is None else f"observation {key!r}"
                raise ValueError(f"Environment {index} gave a non-finite {name} {when} of the rollout: {value[index]}.")

    def rewards(self, rewards: np.ndarray, step: int) -> None:
        """Check rewards ``[B]`` of step ``step``.

        Raises:
            ValueError: one is not finite.
        """
        if not np.isfinite(rewards).all():
            index = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise ValueError(f"Environment {index} gave a non-finite reward at step {step} of the rollout: {rewards[index]}.")
