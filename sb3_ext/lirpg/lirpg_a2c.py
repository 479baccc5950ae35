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

from sb3_ext.common import ppo_losses
from sb3_ext.common.sb3_arguments import sb3_arguments
from sb3_ext.learned_reward.algorithm import Logs
from sb3_ext.learned_reward.rollout import Samples
from sb3_ext.lirpg.reward_gradient import RewardGradientAlgorithm

SelfLIRPGA2C = TypeVar("SelfLIRPGA2C", bound="LIRPGA2C")


class LIRPGA2C(RewardGradientAlgorithm, A2C):
    """A2C that learns a part of its reward by a meta-gradient (Zheng, Oh & Singh, arXiv 1804.06459).

    See :class:`sb3_ext.LIRPG` for the method. The policy, η and V^ex take one step for each rollout. In J^ex(θ′) the ratio
    π_θ′/π_θ is not clipped and the advantages of r_ex are not normalised. The gradient flows through all of RMSprop. With
    ``intrinsic_coef=0`` this is SB3's A2C, weight for weight.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a policy class of SB3's A2C.
        env: the environment, a ``VecEnv``, or the id of a registered environment.
        learning_rate: learning rate of the policy and of V^ex; a number or a schedule of the remaining progress.
        n_steps: steps of each environment in a rollout.
        gamma: discount of both returns.
        gae_lambda: λ of generalised advantage estimation.
        ent_coef: coefficient of the policy's entropy.
        vf_coef: coefficient of the loss of the policy's critic.
        max_grad_norm: largest norm of the gradients of the policy, the reward network and V^ex, each by itself.
        rms_prop_eps: ε of RMSprop.
        use_rms_prop: whether the optimisers are RMSprop instead of Adam.
        use_sde: whether to explore with generalised state-dependent noise.
        sde_sample_freq: steps after which that noise is sampled anew; -1 for once a rollout.
        rollout_buffer_class: SB3's ``RolloutBuffer`` or a subclass. Default: by the observation space.
        rollout_buffer_kwargs: further arguments of the rollout buffer.
        normalize_advantage: whether the mixed advantages are normalised; those of r_ex never are.
        stats_window_size: episodes over which ``rollout/…`` is averaged.
        tensorboard_log: folder of the TensorBoard log, or None.
        policy_kwargs: arguments of the policy.
        verbose: 0 for no output, 1 for information, 2 for debugging.
        seed: of the policy, the networks and the environments.
        device: of the networks.
        _init_setup_model: whether the networks are built at once.
        extrinsic_coef: weight of the extrinsic reward in the policy's reward. Default: 1, as the authors have it for Atari.
        intrinsic_coef: weight of the learned reward in the policy's reward. Default: 0.01, likewise.
        reward_learning_rate: learning rate of η; a number or a schedule. The optimisers of η and V^ex are of the policy's
            class and have its settings.
        reward_network_kwargs: arguments of :class:`~sb3_ext.learned_reward.RewardNetwork`.
        extrinsic_vf_coef: coefficient of the loss of V^ex, which has an optimiser and a gradient clip of its own.

    Raises:
        ValueError: for an argument out of range, an optimiser that can't be differentiated, and NaN or infinite rewards.
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
        extrinsic_coef: float = 1.0,
        intrinsic_coef: float = 0.01,
        reward_learning_rate: float | Schedule = 7e-4,
        reward_network_kwargs: dict[str, Any] | None = None,
        extrinsic_vf_coef: float = 0.1,
    ) -> None:
        super().__init__(
            **sb3_arguments(A2C, locals()),
            extrinsic_coef=extrinsic_coef,
            intrinsic_coef=intrinsic_coef,
            reward_learning_rate=reward_learning_rate,
            reward_network_kwargs=reward_network_kwargs,
            extrinsic_vf_coef=extrinsic_vf_coef,
        )

    def train(self) -> None:
        """A2C's update, with a step of η and V^ex beside the policy's."""
        if not self._learns_reward():
            super().train()
            return
        self._update_learning_rates()
        rollout = self._rollout(self.n_steps * self.n_envs)
        logs: Logs = defaultdict(list)

        def policy_loss(
            values: Tensor, log_prob: Tensor, entropy: Tensor | None, batch: Samples, mixed: Tensor, returns: Tensor
        ) -> Tensor:
            if self.normalize_advantage:
                mixed = (mixed - mixed.mean()) / (mixed.std() + 1e-8)
            surrogate = -(mixed * log_prob).mean()
            value_loss = functional.mse_loss(returns, values)
            entropy_loss = ppo_losses.entropy_loss(log_prob, entropy)
            for name, value in (("policy_loss", surrogate), ("value_loss", value_loss), ("entropy_loss", entropy_loss)):
                logs[f"train/{name}"].append(value.item())
            return surrogate + self.ent_coef * entropy_loss + self.vf_coef * value_loss

        def extrinsic_loss(log_prob: Tensor, batch: Samples) -> Tensor:
            return -(torch.exp(log_prob - batch.old_log_prob) * batch.extrinsic_advantages).mean()

        (rows,) = rollout.minibatches(None)
        gradients = self._gradients(
            self._point(), rollout.samples, rollout.discounted_sum, rows, policy_loss, extrinsic_loss, clip_range_vf=None
        )
        self._step(gradients)
        self._n_updates += 1
        self._log_update(rollout, logs | {name: [value.item()] for name, value in gradients.figures.items()})

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
