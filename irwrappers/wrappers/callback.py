"""``IntrinsicRewardCallback``: what the bonus does, in Stable-Baselines3's logs."""

from __future__ import annotations

import os

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import unwrap_vec_wrapper

from irwrappers.wrappers.vec import VecIntrinsicReward


class IntrinsicRewardCallback(BaseCallback):
    """Writes the logs of the training environment's :class:`VecIntrinsicReward` under ``intrinsic/``, and can save it.

    ``intrinsic/reward`` is the mean bonus before its coefficient, ``intrinsic/episode_return`` its sum over an episode,
    ``intrinsic/return_std`` the deviation it was divided by; what the reward logs while it learns (a loss) stands beside them.

    Args:
        save_path: file for ``VecIntrinsicReward.save``, written at the end of training; None: not saved.
        save_freq: also every so many calls (steps of all copies), into the same file; 0: only at the end.

    In rl_zoo3's YAML: ``callback: irwrappers.IntrinsicRewardCallback``.
    """

    def __init__(self, save_path: str | os.PathLike[str] | None = None, save_freq: int = 0, verbose: int = 0) -> None:
        super().__init__(verbose)
        if save_freq < 0 or (save_freq and save_path is None):
            raise ValueError(f"save_freq must be 0, or positive with a save_path; got {save_freq!r} and {save_path!r}.")
        self.save_path = save_path
        self.save_freq = save_freq

    def _on_training_start(self) -> None:
        wrapper = unwrap_vec_wrapper(self.training_env, VecIntrinsicReward)
        if wrapper is None:
            raise ValueError(
                f"IntrinsicRewardCallback found no VecIntrinsicReward around the training environment {self.training_env}; "
                "wrap it, or leave the callback out."
            )
        self._wrapper = wrapper

    def _on_step(self) -> bool:
        if self.save_freq and self.n_calls % self.save_freq == 0:
            self._save()
        return True

    def _on_rollout_end(self) -> None:
        for name, value in self._wrapper.pop_logs().items():
            self.logger.record_mean(f"intrinsic/{name}", value)

    def _on_training_end(self) -> None:
        if self.save_path is not None:
            self._save()

    def _save(self) -> None:
        assert self.save_path is not None
        self._wrapper.save(self.save_path)
