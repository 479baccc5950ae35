"""LIRPG in its A2C form, as the paper has it for Atari."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeVar

import torch
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch import Tensor
from torch.nn import functional

from sb3_ext.lirpg.learned_reward import LearnedRewardAlgorithm
from sb3_ext.lirpg.rollout import Samples

SelfLIRPGA2C = TypeVar("SelfLIRPGA2C", bound="LIRPGA2C")


class LIRPGA2C(LearnedRewardAlgorithm, A2C):
    """A2C that learns a part of the reward it is paid (Zheng, Oh & Singh, arXiv 1804.06459): see :class:`sb3_ext.LIRPG`.

    One update of policy, η and V^ex for each rollout. J^ex(θ′) has the ratio π_θ′/π_θ unclipped and the advantages of r_ex as
    they are. With ``r_in_coef=0`` this is SB3's A2C, weight for weight.

    The arguments are those of SB3's A2C in its order, and then by name those of LIRPG, with the paper's values for Atari. η
    and V^ex have the policy's kind of optimiser, RMSprop unless ``use_rms_prop=False``; the gradient flows through all of it.
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        r_ex_coef: float = 1.0,
        r_in_coef: float = 0.01,
        reward_learning_rate: float | Schedule = 7e-4,
        reward_kwargs: dict[str, Any] | None = None,
        extrinsic_vf_coef: float = 0.1,
        second_moment_gradient: bool | None = None,
    ) -> None:
        self._set_reward_arguments(
            r_ex_coef, r_in_coef, reward_learning_rate, reward_kwargs, extrinsic_vf_coef, second_moment_gradient
        )
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            rms_prop_eps=rms_prop_eps,
            use_rms_prop=use_rms_prop,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            normalize_advantage=normalize_advantage,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def train(self) -> None:
        """A2C's update and one of η, on the whole rollout."""
        if not self._learns_a_reward():
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rates()
        rollout = self._rollout(self.n_steps * self.n_envs)
        logs: dict[str, list[float]] = defaultdict(list)

        def policy_loss(
            values: Tensor, log_prob: Tensor, entropy: Tensor | None, batch: Samples, mixed: Tensor, returns: Tensor
        ) -> Tensor:
            if self.normalize_advantage:
                mixed = (mixed - mixed.mean()) / (mixed.std() + 1e-8)
            surrogate = -(mixed * log_prob).mean()
            value_loss = functional.mse_loss(returns, values)
            entropy_loss = -torch.mean(-log_prob if entropy is None else entropy)
            for name, value in (("policy_loss", surrogate), ("value_loss", value_loss), ("entropy_loss", entropy_loss)):
                self.logger.record(f"train/{name}", value.item())
            return surrogate + self.ent_coef * entropy_loss + self.vf_coef * value_loss

        def extrinsic_loss(log_prob: Tensor, samples: Samples) -> Tensor:
            return -(torch.exp(log_prob - samples.old_log_prob) * samples.extrinsic_advantages).mean()

        (indices,) = rollout.minibatches(None)
        sums = rollout.discounted_sum
        gradients = self._gradients(self._point(), rollout.samples, sums, [indices], policy_loss, extrinsic_loss, None)
        self._policy_step(gradients.policy[0])
        self._reward_step(gradients, logs)
        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())
        for name, (value,) in logs.items():
            self.logger.record(f"lirpg/{name}", value)
        self._log_reward(rollout)

    def learn(
        self: SelfLIRPGA2C,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "LIRPGA2C",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfLIRPGA2C:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
