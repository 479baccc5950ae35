"""Files of models that are whole or not there, and checkpoints that lie on iteration boundaries."""

from __future__ import annotations

import copy
import io
import pathlib
from collections.abc import Iterable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from irwrappers.files import replacing


class WholeSave(BaseAlgorithm):
    """Mixin whose ``save`` replaces a file only by a whole one: a kill or a full disk leaves the model that was there."""

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save as SB3 does, under a temporary name that is then moved into place."""
        if not isinstance(path, (str, pathlib.Path)):
            super().save(path, exclude, include)
            return
        path = pathlib.Path(path)
        with replacing(path if path.suffix else path.with_suffix(".zip")) as temporary:
            super().save(temporary, exclude, include)


class WeightsToResume:
    """The policy's weights at the beginning of the iteration within which a model was saved; empty for one saved between two.

    Attributes:
        weights: by parameter name.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights."""
        return self.weights

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Take the weights over."""
        self.weights = state


class IterationCheckpoint(WholeSave):
    """Mixin for algorithms whose iteration is all or nothing.

    SB3's callbacks save in the middle of a rollout. While ``_boundary`` holds a snapshot of the iteration's beginning,
    ``save`` stores that, so a run continued from any checkpoint repeats the iteration and equals the unbroken run.

    An algorithm whose policy learns within an iteration names ``to_resume`` among its modules: the saved policy is then the
    one that acts when ``save`` is called, which is what an evaluation saves as its best, and the weights of the beginning lie
    beside it, for a run that goes on.
    """

    _boundary: dict[str, Any] | None = None
    to_resume: WeightsToResume | None = None
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
        """As SB3's; in the middle of an iteration it stores the iteration's beginning, and what the policy is now."""
        if self._boundary is None:
            super().save(path, exclude, include)
            return
        now = self._snapshot()
        self._restore(self._boundary)
        if self.to_resume is not None:
            self.to_resume.weights = copy.deepcopy(self.policy.state_dict())
            self.policy.load_state_dict(now["modules"]["policy"])
        try:
            super().save(path, exclude, include)
        finally:
            self._restore(now)

    def _go_back_to_resume(self, continues: bool) -> None:
        """At the beginning of ``learn``: the weights from which a run that ``continues`` goes on."""
        if self.to_resume is None:
            return
        if continues and self.to_resume.weights:
            self.policy.load_state_dict(self.to_resume.weights)
        self.to_resume.weights = {}

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_boundary", "to_resume"]
