"""Base class of the outer learners that reward the agents of a ``LifetimeVecEnv``."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from irwrappers.serialization import describe_space
from sb3_ext.common.sb3_arguments import sb3_arguments
from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv
from sb3_ext.meta.outer_learners.outer_loop import OuterLoop
from sb3_ext.meta.outer_learners.policies import MetaRewardPolicy
from sb3_ext.meta.outer_learners.reward_model import RewardModel


class LifetimeAlgorithm(OuterLoop):
    """Base of algorithms that train a :class:`MetaRewardPolicy` to reward the agents of a :class:`LifetimeVecEnv`.

    An iteration is B lifetimes from beginning to end, seeded from (seed, iteration); a subclass implements :meth:`_iterate`.
    Logs: ``rollout/success`` is the share of successful episodes in the last inner batch, ``rollout/success_first`` in the
    first. ``num_timesteps`` counts every step of every inner agent.

    Args:
        policy: ``"MlpLstmPolicy"`` or a subclass of :class:`MetaRewardPolicy`.
        env: a :class:`LifetimeVecEnv`, or None.
        learning_rate: a number or a schedule of the remaining progress.
        stats_window_size: episodes over which ``rollout/…`` is averaged.
        tensorboard_log: folder of the TensorBoard log, or None.
        policy_kwargs: arguments of the policy.
        verbose: 0 for no output, 1 for information, 2 for debugging.
        seed: of weights, tasks, agents and environments.
        device: of the policy.
        _init_setup_model: whether the networks are built at once.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpLstmPolicy": MetaRewardPolicy}
    policy: MetaRewardPolicy

    def __init__(
        self,
        policy: str | type[MetaRewardPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(**sb3_arguments(OuterLoop, locals()), supported_action_spaces=(spaces.Box,))
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    @property
    def lifetimes(self) -> LifetimeVecEnv:
        """The environment.

        Raises:
            ValueError: if there is none, if it is no :class:`LifetimeVecEnv`, or if nothing can be learned in it.
        """
        env = None if self.env is None else self.env.unwrapped
        if not isinstance(env, LifetimeVecEnv):
            raise ValueError(f"{type(self).__name__} needs a sb3_ext.meta.LifetimeVecEnv, got {self.env}.")
        if env.signal not in ("reward", "advantage"):
            raise ValueError(
                f"The agents of this LifetimeVecEnv are rewarded by the task (signal={env.signal!r}); use signal='reward' or "
                "'advantage'."
            )
        if env.settings.n_batches < 2:
            raise ValueError(
                "A reward has an effect after the agents' next update: n_batches must be at least 2, got "
                f"{env.settings.n_batches}."
            )
        if self.get_vec_normalize_env() is not None:
            raise ValueError("Lifetimes run without wrappers; use the LifetimeVecEnv without VecNormalize.")
        return env

    def _lifetime_env(self) -> LifetimeVecEnv:
        return self.lifetimes

    def _step_counter(self, env: LifetimeVecEnv, callback: BaseCallback) -> Callable[[Any, Any, Any, Any], bool]:
        """Return the function that ``collect`` calls after each step of the B agents."""

        def on_step(observations: Any, rewards: Any, dones: Any, infos: Any) -> bool:
            self.num_timesteps += env.num_envs
            callback.update_locals({"rewards": rewards, "dones": dones, "infos": infos, "new_obs": observations})
            return callback.on_step()

        return on_step

    def _log_lifetimes(self, infos: list[dict[str, Any]]) -> None:
        """Log the lifetimes that end with these ``infos``."""
        self._update_info_buffer(infos, np.ones(len(infos), dtype=bool))
        lifetimes = [info["lifetime"] for info in infos]
        self.logger.record("rollout/success_mean", float(self._log_success(lifetimes).mean()))
        kinds: dict[str, list[float]] = {}
        for one in lifetimes:
            kinds.setdefault(one["task"].env_id, []).append(one["success"][-1])
        if len(kinds) > 1:
            for kind, values in kinds.items():
                self.logger.record(f"success/{kind.removeprefix('sparse/')}", float(np.mean(values)))

    def save_reward_model(self, path: str | os.PathLike[str], **record: Any) -> None:
        """Write what was learned to a file for :class:`~sb3_ext.meta.MetaRewardPPO`.

        Args:
            path: the file; ``.safetensors`` is added to a path without a suffix.
            **record: further entries of the model's record of its training, JSON types.
        """
        env = self.lifetimes
        description = env.describe()
        RewardModel(
            deepcopy(self.policy.network).cpu(),
            self.policy.network_kwargs,
            describe_space(env.family.observation_space),
            describe_space(env.family.action_space),
            description.pop("signal"),
            env.settings,
            description.pop("env"),
            {"timesteps": self.num_timesteps, "updates": self._iteration, "seed": self._base_seed, **description, **record},
        ).save(path)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
