"""Checkpoints that lie on iteration boundaries, whenever ``save`` is called."""

from __future__ import annotations

import copy
import io
import pathlib
from collections.abc import Iterable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr


class IterationCheckpoint(BaseAlgorithm):
    """Mixin for algorithms whose iteration is all or nothing.

    SB3's callbacks save in the middle of a rollout. While ``_boundary`` holds a snapshot of the iteration's beginning,
    ``save`` stores that, so a run continued from any checkpoint repeats the iteration and equals the unbroken run.
    """

    _boundary: dict[str, Any] | None = None
    # Plain attributes that change within an iteration, beside the modules of _get_torch_save_params.
    _boundary_attributes: tuple[str, ...] = (
        "num_timesteps",
        "_n_updates",
        "_iteration",
        "ep_info_buffer",
        "ep_success_buffer",
    )

    _base_seed: int  # from which, and from its number, an iteration's seed follows

    def set_random_seed(self, seed: int | None = None) -> None:
        """SB3's; the iterations to come follow from ``seed``, which saved models keep."""
        super().set_random_seed(seed)
        if seed is not None:
            self.seed = self._base_seed = seed

    def _snapshot(self) -> dict[str, Any]:
        names = self._get_torch_save_params()[0]
        return {
            "modules": {name: copy.deepcopy(recursive_getattr(self, name).state_dict()) for name in names},
            "attributes": {name: copy.deepcopy(getattr(self, name)) for name in self._boundary_attributes},
        }

    def _restore(self, snapshot: dict[str, Any]) -> None:
        for name, state in snapshot["modules"].items():
            recursive_getattr(self, name).load_state_dict(copy.deepcopy(state))
        for name, value in snapshot["attributes"].items():
            setattr(self, name, copy.deepcopy(value))

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """As SB3's; in the middle of an iteration it stores the iteration's beginning."""
        if self._boundary is None:
            super().save(path, exclude, include)
            return
        now = self._snapshot()
        self._restore(self._boundary)
        try:
            super().save(path, exclude, include)
        finally:
            self._restore(now)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_boundary"]
