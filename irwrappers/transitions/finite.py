"""Find NaN and infinity in what an environment returned."""

from __future__ import annotations

from typing import Any

import numpy as np


class FiniteCheck:
    """Raises on NaN and infinity, naming copy and step; integer observations are not looked at."""

    def __init__(self, observations: Any) -> None:
        keys = observations.keys() if isinstance(observations, dict) else [None]
        self._floating = [key for key in keys if np.issubdtype(self._pick(observations, key).dtype, np.floating)]

    @staticmethod
    def _pick(observations: Any, key: str | None) -> np.ndarray:
        return observations if key is None else observations[key]

    def observations(self, observations: Any, when: str) -> None:
        for key in self._floating:
            value = self._pick(observations, key)
            if not np.isfinite(value).all():
                copy = int(np.argwhere(~np.isfinite(value))[0][0])
                name = "observation" if key is None else f"observation {key!r}"
                raise ValueError(f"Environment copy {copy} gave a non-finite {name} {when} of the collection: {value[copy]}.")

    def rewards(self, rewards: np.ndarray, step: int) -> None:
        if not np.isfinite(rewards).all():
            copy = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise ValueError(
                f"Environment copy {copy} gave a non-finite reward at step {step} of the collection: {rewards[copy]}."
            )
