"""LIRPG in its PPO form."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeVar

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch import Tensor

from sb3_ext.common.gae import DiscountedSum
from sb3_ext.common.sb3_arguments import sb3_arguments
from sb3_ext.learned_reward.algorithm import LearnedRewardPPO, Logs
from sb3_ext.learned_reward.rollout import Samples
from sb3_ext.lirpg.compiled import Compiled, check_compiler
from sb3_ext.lirpg.reward_gradient import Gradients, Point, RewardGradientAlgorithm

SelfLIRPG = TypeVar("SelfLIRPG", bound="LIRPG")


class LIRPG(RewardGradientAlgorithm, LearnedRewardPPO):
    """PPO that learns a part of its reward by a meta-gradient (Zheng, Oh & Singh, arXiv 1804.06459).

    The policy maximises r_mix = extrinsic_coef · r_ex + intrinsic_coef · r_η(s, a), and its critic predicts the return of
    r_mix. At every minibatch η follows the gradient of the extrinsic objective J^ex *after* the policy's step θ → θ′(η),

        ∂J^ex/∂η = ∂J^ex/∂θ′ · ∂θ′/∂η,

    where θ′ is one whole step of PPO: advantages of r_mix over the rest of the rollout, loss, gradient clip, optimiser (not
    through Adam's second moment, as in the authors' program). J^ex(θ′) is PPO's clipped objective on the same minibatch with
    the advantages of r_ex, from a critic V^ex of its own.

    Until the first reward other than 0 there is nothing to learn a reward from: the update is then PPO's on extrinsic_coef
    times the environment's reward. That includes the bonus of a ``VecIntrinsicReward``, which therefore needs an
    extrinsic_coef above 0. With ``intrinsic_coef=0, extrinsic_coef=1`` this is SB3's PPO, weight for weight.

    r_ex is the reward of the algorithm's environment, without such a bonus; with ``VecNormalize(norm_reward=True)`` it is the
    normalised reward. Truncated episodes are bootstrapped, each return with its own critic.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a policy class of SB3's PPO.
        env: the environment, a ``VecEnv``, or the id of a registered environment.
        learning_rate: learning rate of the policy and of V^ex; a number or a schedule of the remaining progress.
        n_steps: steps of each environment in a rollout.
        batch_size: transitions in a minibatch.
        n_epochs: passes over a rollout.
        gamma: discount of both returns.
        gae_lambda: λ of generalised advantage estimation.
        clip_range: clipping of the probability ratio; a number or a schedule.
        clip_range_vf: clipping of the values of both critics; a number, a schedule, or None for no clipping.
        normalize_advantage: whether the advantages of both returns are normalised in each minibatch.
        ent_coef: coefficient of the policy's entropy.
        vf_coef: coefficient of the loss of the policy's critic.
        max_grad_norm: largest norm of the gradients of the policy, the reward network and V^ex, each by itself.
        use_sde: whether to explore with generalised state-dependent noise.
        sde_sample_freq: steps after which that noise is sampled anew; -1 for once a rollout.
        rollout_buffer_class: SB3's ``RolloutBuffer`` or a subclass. Default: by the observation space.
        rollout_buffer_kwargs: further arguments of the rollout buffer.
        target_kl: an update stops where the approximate KL divergence exceeds 1.5 times this; None for no limit.
        stats_window_size: episodes over which ``rollout/…`` is averaged.
        tensorboard_log: folder of the TensorBoard log, or None.
        policy_kwargs: arguments of the policy.
        verbose: 0 for no output, 1 for information, 2 for debugging.
        seed: of the policy, the networks and the environments.
        device: of the networks.
        _init_setup_model: whether the networks are built at once.
        extrinsic_coef: weight of r_ex in the policy's reward. Default: 0, as in the authors' program for MuJoCo.
        intrinsic_coef: weight of r_η in the policy's reward. Default: 1, likewise.
        reward_learning_rate: learning rate of η; a number or a schedule. The optimisers of η and V^ex are of the policy's
            class and have its settings.
        reward_network_kwargs: arguments of :class:`~sb3_ext.learned_reward.RewardNetwork`.
        extrinsic_vf_coef: coefficient of the loss of V^ex, which has an optimiser and a gradient clip of its own.
        compile: whether the gradients of a minibatch run as one graph of ``torch.compile``, two to three times as fast where
            networks are small. Compiling takes a minute or two, and a C++ compiler on a CPU; results differ by round-off.

    ``reward_network`` is r_η, :meth:`intrinsic_rewards` evaluates it. Logs, from the first reward on: ``lirpg/reward_mean``
    and ``reward_std`` over the rollout, ``extrinsic_loss`` (−J^ex at θ′), ``meta_gradient_norm`` (of η, before the clip), and
    for V^ex ``train/extrinsic_value_loss`` and ``extrinsic_explained_variance``. ``rollout/ep_rew_mean`` is the extrinsic
    return.

    Raises:
        ValueError: for an argument out of range, an optimiser that can't be differentiated, and NaN or infinite rewards.
        RuntimeError: ``compile`` without a C++ compiler.
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        extrinsic_coef: float = 0.0,
        intrinsic_coef: float = 1.0,
        reward_learning_rate: float | Schedule = 1e-4,
        reward_network_kwargs: dict[str, Any] | None = None,
        extrinsic_vf_coef: float = 0.5,
        compile: bool = False,
    ) -> None:
        if not isinstance(compile, bool):
            raise ValueError(f"compile must be True or False, got {compile!r}.")
        self.compile = compile
        self._compiled: Compiled | None = None
        super().__init__(
            **sb3_arguments(PPO, locals()),
            extrinsic_coef=extrinsic_coef,
            intrinsic_coef=intrinsic_coef,
            reward_learning_rate=reward_learning_rate,
            reward_network_kwargs=reward_network_kwargs,
            extrinsic_vf_coef=extrinsic_vf_coef,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.compile:
            check_compiler(self.device)

    def train(self) -> None:
        """PPO's update, with a step of η and V^ex beside each of the policy's."""
        if not self._learns_reward():
            super().train()
            return
        self._update_learning_rates()
        clip_ranges = self._clip_ranges()
        rollout = self._rollout(self.batch_size)
        logs: Logs = defaultdict(list)

        def update(rows: Tensor) -> bool:
            return self._update((self._point(), rollout.samples, rollout.discounted_sum, rows, *clip_ranges), logs)

        self._train_epochs(rollout, logs, update)
        self._log_update(rollout, logs)

    def _update(self, arguments: tuple[Point, Samples, DiscountedSum, Tensor, float, float | None], logs: Logs) -> bool:
        """Take a step on a minibatch, given by the arguments of :meth:`_ppo_gradients`, or return False beyond target_kl."""
        gradients, figures = (self._compiled_ppo_gradients if self.compile else self._ppo_gradients)(*arguments)
        self._note(logs, figures)
        if self._exceeds_target_kl(logs["train/approx_kl"][-1]):
            return False
        self._note(logs, gradients.figures)
        self._step(gradients)
        return True

    def _ppo_gradients(
        self,
        point: Point,
        samples: Samples,
        discounted_sum: DiscountedSum,
        rows: Tensor,
        clip_range: float,
        clip_range_vf: float | None,
    ) -> tuple[Gradients, dict[str, Tensor]]:
        """Return :meth:`_gradients` of PPO's loss on the minibatch ``rows``, and what SB3 logs of it."""
        figures: dict[str, Tensor] = {}

        def policy_loss(
            values: Tensor, log_prob: Tensor, entropy: Tensor | None, batch: Samples, mixed: Tensor, returns: Tensor
        ) -> Tensor:
            loss, of_loss = self._ppo_loss(values, log_prob, entropy, batch, mixed, returns, clip_range, clip_range_vf)
            figures.update(of_loss)
            return loss

        def extrinsic_loss(log_prob: Tensor, batch: Samples) -> Tensor:
            return self._surrogate(log_prob, batch.old_log_prob, batch.extrinsic_advantages, clip_range)

        gradients = self._gradients(point, samples, discounted_sum, rows, policy_loss, extrinsic_loss, clip_range_vf)
        return gradients, figures

    def _compiled_ppo_gradients(
        self, point: Point, samples: Samples, discounted_sum: DiscountedSum, rows: Tensor, *clip_ranges: float | None
    ) -> tuple[Gradients, dict[str, Tensor]]:
        """Return :meth:`_ppo_gradients` by one graph, but not for a smaller last minibatch, which would need another one."""
        arguments: Any = (point, samples, discounted_sum, rows, *clip_ranges)
        if len(rows) < self.batch_size:
            return self._ppo_gradients(*arguments)
        if self._compiled is None:
            self._compiled = Compiled(self._ppo_gradients)
        coefficients = (self.intrinsic_coef, self.ent_coef, self.vf_coef, self.extrinsic_vf_coef, self.max_grad_norm)
        return self._compiled(*arguments, settings=(*coefficients, self.normalize_advantage))

    def learn(
        self: SelfLIRPG,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "LIRPG",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfLIRPG:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_compiled"]
