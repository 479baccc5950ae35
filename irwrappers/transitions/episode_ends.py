"""Read SB3's ``infos``: which episodes ended with a step, which by truncation, and with which observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TRUNCATED, TERMINAL, RESET_STEP = "TimeLimit.truncated", "terminal_observation", "reset_step"
ORIGINAL_TERMINAL = "original_terminal_observation"  # see OriginalView


class EpisodeEnds:
    """The episodes that ended with one step of B parallel environments, read from ``dones`` and ``infos``.

    Args:
        dones: bool ``[B]``, from ``VecEnv.step``.
        infos: of the same step, one for each environment.

    Attributes:
        indices: int ``[n]``, the environments whose episode ended.
        truncated: bool ``[B]``, those of them that were cut by a time limit.
        terminated: bool ``[B]``, the others.
    """

    def __init__(self, dones: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> None:
        self._infos = infos
        self.indices = np.flatnonzero(dones)
        self.truncated = np.zeros(len(dones), dtype=bool)
        self.truncated[self.indices] = [infos[i].get(TRUNCATED, False) for i in self.indices.tolist()]
        self.terminated = np.asarray(dones, dtype=bool) & ~self.truncated

    @property
    def reset_steps(self) -> np.ndarray:
        """bool ``[B]``: environments that were only reset in this step (see ``GymnasiumVecEnv``)."""
        result = np.zeros(len(self.truncated), dtype=bool)
        for index, info in enumerate(self._infos):  # SB3 looks at infos of ended episodes only: there may be no others
            result[index] = bool(info.get(RESET_STEP, False))
        return result

    def terminal_observations(self, original: bool = False) -> list[Any]:
        """Return the last observation of each ended episode, in the order of ``indices``.

        Args:
            original: as the environment gave it beneath a ``VecNormalize`` (of a step within
                ``OriginalView.terminals_kept``), instead of as the policy sees it.
        """
        ended = [self._infos[i] for i in self.indices.tolist()]
        return [info.get(ORIGINAL_TERMINAL, info[TERMINAL]) if original else info[TERMINAL] for info in ended]

    def next_observations(self, observations: Any, original: bool = False) -> Any:
        """Return the observations that the step led to: ``observations`` with terminal ones in place of those after a reset.

        Args:
            observations: ``[B, …]`` (or a dict of such), from ``VecEnv.step``; left as they are, and returned if none ended.
            original: as in :meth:`terminal_observations`; ``observations`` are then original too.
        """
        if not len(self.indices):
            return observations
        return _replaced(observations, self.indices, self.terminal_observations(original))


def _replaced(observations: Any, indices: np.ndarray, rows: list[Any]) -> Any:
    if isinstance(observations, dict):
        return {key: _replaced(value, indices, [row[key] for row in rows]) for key, value in observations.items()}
    result = observations.copy()
    result[indices] = np.stack(rows)
    return result
