"""The outer loop of meta-learning as an SB3 algorithm: iterations of whole lifetimes, with checkpoints between them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean

from sb3_ext.common.checkpoint import IterationCheckpoint

SelfOuterLoop = TypeVar("SelfOuterLoop", bound="OuterLoop")


class OuterLoop(IterationCheckpoint, BaseAlgorithm):
    """Base of algorithms that learn from B lifetimes (or trials) in each iteration, seeded from (seed, iteration).

    A subclass implements :meth:`_iterate` and :meth:`_lifetime_env`.

    Args:
        policy: name or class of the policy.
        env: the environment of lifetimes or trials, or None.
        learning_rate: a number or a schedule of the remaining progress.
        stats_window_size: episodes over which ``rollout/…`` is averaged.
        tensorboard_log: folder of the TensorBoard log, or None.
        policy_kwargs: arguments of the policy.
        verbose: 0 for no output, 1 for information, 2 for debugging.
        seed: of weights, tasks, agents and environments.
        device: of the policy.
        supported_action_spaces: classes of action spaces; None: all.
    """

    _boundary_attributes = (*IterationCheckpoint._boundary_attributes, "env_state")

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        supported_action_spaces: tuple[type[spaces.Space], ...] | None = None,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=supported_action_spaces,
        )
        self._iteration = 0
        self._base_seed = seed if seed is not None else int(np.random.randint(2**31 - 1))
        self.env_state: dict[str, Any] | None = None

    @abstractmethod
    def _lifetime_env(self) -> Any:
        """Return the environment below any wrappers, with ``get_state`` and ``set_state``; ValueError for another kind."""

    def learn(
        self: SelfOuterLoop,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOuterLoop:
        """Train as in SB3; ``tb_log_name`` defaults to the name of the class."""
        env = self._lifetime_env()
        if self.env_state is not None:
            env.set_state(self.env_state)
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            self.env_state = env.get_state()
            self._boundary = self._snapshot()
            try:
                finished = self._iterate(env, callback, self._iteration_seed())
            except BaseException:
                self._restore(self._boundary)
                self._boundary = None
                raise
            if not finished:
                steps = self.num_timesteps
                self._restore(self._boundary)
                self.num_timesteps = steps  # a callback stopped training: its steps count
                break
            self._iteration += 1
            self.env_state, self._boundary = env.get_state(), None
            if log_interval and self._iteration % log_interval == 0:
                self._dump_logs()
        self._boundary = None
        callback.on_training_end()
        return self

    @abstractmethod
    def _iterate(self, env: Any, callback: BaseCallback, seed: int) -> bool:
        """Run B lifetimes of ``env`` and learn from them; return False if a callback stopped training."""

    def _log_success(self, lifetimes: list[dict[str, Any]]) -> np.ndarray:
        """Log ``info["lifetime"]`` of lifetimes or trials, and return their mean success ``[n_batches]``."""
        success = np.mean([one["success"] for one in lifetimes], axis=0)
        self.logger.record("rollout/success", float(success[-1]))
        self.logger.record("rollout/success_first", float(success[0]))
        for name in ("shaped", "sparse"):
            self.logger.record(f"rollout/{name}_return", float(np.mean([one[name] for one in lifetimes])))
        return success

    def _iteration_seed(self) -> int:
        return int(np.random.SeedSequence([self._base_seed, self._iteration]).generate_state(1)[0])

    def _dump_logs(self) -> None:
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
        if self.ep_success_buffer:
            self.logger.record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        self.logger.record("time/iterations", self._iteration, exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)
