"""LIRPG in its PPO form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch import Tensor

from irwrappers.validation import check_range
from sb3_ext.common import ppo_losses
from sb3_ext.common.compiled import Compiled, check_compiler
from sb3_ext.common.gae import DiscountedSum
from sb3_ext.lirpg.learned_reward import Gradients, LearnedRewardAlgorithm, Point
from sb3_ext.lirpg.rollout import LearnedRewardRollout, Samples

SelfLIRPG = TypeVar("SelfLIRPG", bound="LIRPG")


class LIRPG(LearnedRewardAlgorithm, PPO):
    """PPO that learns the reward it is paid (Zheng, Oh & Singh, arXiv 1804.06459).

    The policy is paid r_mix = r_ex_coef · r_ex + r_in_coef · r_η(s, a) and has a critic of it, its own value head. At every
    minibatch η follows the gradient of the extrinsic objective J^ex *after* the policy's update θ → θ′(η),

        ∂J^ex/∂η = ∂J^ex/∂θ′ · ∂θ′/∂η,

    where θ′ is one whole step of PPO: advantages from r_mix over the rest of the rollout, loss, gradient clip, optimiser.
    J^ex(θ′) is PPO's clipped objective on the same minibatch with the advantages of r_ex, from a critic V^ex of its own.

    While the environment has never paid anything but 0, nothing says what a reward should be: until then this is PPO, paid
    r_ex_coef times what its environment pays, and V^ex waits too. The bonus of a ``VecIntrinsicReward`` is part of that, so it
    needs an r_ex_coef above 0.

    With ``r_in_coef=0`` there is no reward to learn, and with ``r_ex_coef=1`` this is SB3's PPO, weight for weight. r_ex is
    what the algorithm's environment pays: with ``VecNormalize(norm_reward=True)``, the normalised reward. Truncated episodes
    are bootstrapped, each return with its own critic.

    The arguments are those of SB3's PPO in its order, and then by name:

    Args:
        r_ex_coef, r_in_coef: what the policy is paid of r_ex and of r_η (0 and 1, as in the paper's program for MuJoCo).
        reward_learning_rate: of η, or a schedule of the remaining progress. η and V^ex have the policy's class of optimiser,
            its settings and ``max_grad_norm``; V^ex has ``learning_rate``.
        reward_kwargs: arguments of :class:`sb3_ext.common.reward_network.RewardNetwork`.
        extrinsic_vf_coef: weight of the loss of V^ex (which has an optimiser and a clip to itself).
        n_unroll: policy updates, a minibatch each, before a gradient of J^ex (on all of these minibatches) in η.
        second_moment_gradient: whether the gradient flows through the second moment of Adam or RMSprop. Default: not through
            Adam's but through RMSprop's, as in the paper's program.
        compile: run the gradients of a minibatch as one graph of ``torch.compile``, two to three times as fast where networks
            are small. The first step of η takes a minute or two, and a C++ compiler on a CPU; results differ by round-off.

    ``reward_network`` is r_η, :meth:`intrinsic_rewards` evaluates it. Logs, from the first pay on: ``lirpg/reward_mean`` and
    ``reward_std`` over the rollout, ``extrinsic_loss`` (−J^ex at θ′), ``extrinsic_value_loss``, ``gradient_norm`` (of η,
    before the clip), ``explained_variance`` (of V^ex); ``rollout/ep_rew_mean`` is the extrinsic return.

    Raises:
        ValueError: for an argument out of range and for an optimiser that can't be differentiated.
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
        r_ex_coef: float = 0.0,
        r_in_coef: float = 1.0,
        reward_learning_rate: float | Schedule = 1e-4,
        reward_kwargs: dict[str, Any] | None = None,
        extrinsic_vf_coef: float = 0.5,
        n_unroll: int = 1,
        second_moment_gradient: bool | None = None,
        compile: bool = False,
    ) -> None:
        self._set_reward_arguments(
            r_ex_coef, r_in_coef, reward_learning_rate, reward_kwargs, extrinsic_vf_coef, second_moment_gradient
        )
        check_range("n_unroll", n_unroll, 1, integer=True)
        if not isinstance(compile, bool):
            raise ValueError(f"compile must be True or False, got {compile!r}.")
        self.n_unroll = n_unroll
        self.compile = compile
        self._compiled: Compiled | None = None
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.compile:
            check_compiler(self.device)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_compiled"]

    def train(self) -> None:
        """PPO's update, with one of η after every ``n_unroll`` minibatches."""
        if not self._learns_a_reward():
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rates()
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = None
        if self.clip_range_vf is not None:
            clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
        rollout = self._rollout(self.batch_size)
        # Numbers and not tensors: those would lie scattered between the large ones, whose memory could not be used again.
        logs: dict[str, list[float]] = defaultdict(list)
        for epoch in range(self.n_epochs):
            logs["approx_kl"] = []
            minibatches = rollout.minibatches(self.batch_size)
            groups: Iterator[list[Tensor]] = iter(lambda: list(islice(minibatches, self.n_unroll)), [])  # noqa: B023
            within_target_kl = all(self._update(rollout, group, clip_range, clip_range_vf, logs) for group in groups)
            self._n_updates += 1
            if not within_target_kl:
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {logs['approx_kl'][-1]:.2f}")
                break
        self._log_training(rollout, logs, clip_range, clip_range_vf)

    def _update(
        self,
        rollout: LearnedRewardRollout,
        minibatches: Sequence[Tensor],
        clip_range: float,
        clip_range_vf: float | None,
        logs: dict[str, list[float]],
    ) -> bool:
        """A policy step on each minibatch and one of η and V^ex on all of them; False, and no more steps, beyond target_kl."""
        arguments = (self._point(), rollout.samples, rollout.discounted_sum, list(minibatches), clip_range, clip_range_vf)
        gradients, figures = self._compiled_ppo_gradients(arguments) if self.compile else self._ppo_gradients(*arguments)
        for name, values in figures.items():
            logs[name] += [value.item() for value in values]
        logs["loss"] = logs["loss"][-1:]  # of the last minibatch, as SB3 logs it
        for gradient, approx_kl in zip(gradients.policy, logs["approx_kl"][-len(minibatches) :], strict=True):
            if self.target_kl is not None and approx_kl > 1.5 * self.target_kl:
                return False
            self._policy_step(gradient)
        self._reward_step(gradients, logs)
        return True

    def _ppo_gradients(
        self,
        point: Point,
        samples: Samples,
        discounted_sum: DiscountedSum,
        minibatches: list[Tensor],
        clip_range: float,
        clip_range_vf: float | None,
    ) -> tuple[Gradients, dict[str, list[Tensor]]]:
        """:meth:`_gradients` of PPO's loss, and for each minibatch what SB3 logs of it."""
        figures: dict[str, list[Tensor]] = defaultdict(list)

        def policy_loss(
            values: Tensor, log_prob: Tensor, entropy: Tensor | None, batch: Samples, mixed: Tensor, returns: Tensor
        ) -> Tensor:
            ratio = torch.exp(log_prob - batch.old_log_prob)
            surrogate = self._surrogate(ratio, mixed, clip_range)
            value_loss = ppo_losses.value_loss(values, batch.old_values, returns, clip_range_vf)
            entropy_loss = ppo_losses.entropy_loss(log_prob, entropy)
            loss = surrogate + self.ent_coef * entropy_loss + self.vf_coef * value_loss
            with torch.no_grad():
                figures["approx_kl"].append(torch.mean((ratio - 1) - (log_prob - batch.old_log_prob)))
                figures["clip_fraction"].append(torch.mean(((ratio - 1).abs() > clip_range).float()))
            figures["policy_gradient_loss"].append(surrogate.detach())
            figures["value_loss"].append(value_loss.detach())
            figures["entropy_loss"].append(entropy_loss.detach())
            figures["loss"].append(loss.detach())
            return loss

        def extrinsic_loss(log_prob: Tensor, batch: Samples) -> Tensor:
            return self._surrogate(torch.exp(log_prob - batch.old_log_prob), batch.extrinsic_advantages, clip_range)

        gradients = self._gradients(point, samples, discounted_sum, minibatches, policy_loss, extrinsic_loss, clip_range_vf)
        return gradients, dict(figures)

    def _compiled_ppo_gradients(self, arguments: tuple[Any, ...]) -> tuple[Gradients, dict[str, list[Tensor]]]:
        """:meth:`_ppo_gradients` as one graph, but for a smaller minibatch at the end of an epoch: that would be another."""
        minibatches = arguments[3]
        if len(minibatches) < self.n_unroll or len(minibatches[-1]) < self.batch_size:
            return self._ppo_gradients(*arguments)
        if self._compiled is None:
            self._compiled = Compiled(self._ppo_gradients)
        coefficients = (self.r_in_coef, self.ent_coef, self.vf_coef, self.extrinsic_vf_coef, self.max_grad_norm)
        return self._compiled(*arguments, settings=(*coefficients, self.normalize_advantage))

    def _surrogate(self, ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
        """PPO's clipped objective, negative."""
        if self.normalize_advantage:
            advantages = ppo_losses.normalized(advantages)
        return ppo_losses.policy_loss(ratio, advantages, clip_range)

    def _log_training(
        self, rollout: LearnedRewardRollout, logs: dict[str, list[float]], clip_range: float, clip_range_vf: float | None
    ) -> None:
        record = self.logger.record
        for name, values in logs.items():
            folder = "lirpg" if name in ("extrinsic_loss", "extrinsic_value_loss", "gradient_norm") else "train"
            record(f"{folder}/{name}", np.mean(values))
        self._log_reward(rollout)
        if hasattr(self.policy, "log_std"):
            record("train/std", torch.exp(self.policy.log_std).mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            record("train/clip_range_vf", clip_range_vf)

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
