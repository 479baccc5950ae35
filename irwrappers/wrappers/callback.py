"""``IntrinsicRewardCallback``: logs of the bonus, and checks of what is around it."""

from __future__ import annotations

import os
import warnings

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize, unwrap_vec_wrapper

from irwrappers.wrappers.vec import VecIntrinsicReward


class IntrinsicRewardCallback(BaseCallback):
    """Log the training environment's :class:`~irwrappers.VecIntrinsicReward` under ``intrinsic/``, and optionally save it.

    ``intrinsic/reward`` is the mean bonus before its coefficient, ``intrinsic/episode_return`` its sum over an episode,
    ``intrinsic/return_std`` the deviation it was divided by; beside them is what the reward model logs when it learns (a
    loss). In rl_zoo3's YAML: ``callback: irwrappers.IntrinsicRewardCallback``.

    At the start of training it also checks the order of wrappers: it warns if a ``VecNormalize`` around the bonus normalises
    rewards too, and refuses an off-policy algorithm on a ``VecNormalize`` beneath the bonus.

    Args:
        save_path: file for ``VecIntrinsicReward.save``, written at the end of training; None: not saved.
        save_freq: also save every so many calls (steps of each environment), into the same file; 0: only at the end.
        verbose: as in SB3's callbacks.
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
        if wrapper.training:
            _warn_of_normalized_sum(self.training_env)
            if isinstance(self.model, OffPolicyAlgorithm) and unwrap_vec_normalize(wrapper.venv) is not None:
                raise ValueError(
                    f"{type(self.model).__name__} stores the original reward of the VecNormalize beneath VecIntrinsicReward, "
                    "which does not include the bonus. Put VecNormalize around VecIntrinsicReward."
                )

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


def _warn_of_normalized_sum(env: VecEnv) -> None:
    while isinstance(env, VecEnvWrapper) and not isinstance(env, VecIntrinsicReward):
        if isinstance(env, VecNormalize) and env.training and env.norm_reward:
            warnings.warn(
                "VecNormalize(norm_reward=True) is around VecIntrinsicReward: it divides by the running deviation of the sum, "
                "bonus included, and rescales both rewards. Pass norm_reward=False (rl_zoo3: normalize: "
                '"dict(norm_obs=True, norm_reward=False)") to keep the coefficients as given.',
                UserWarning,
                stacklevel=2,
            )
        env = env.venv
