"""What LIRPG's two forms share: the reward network, the extrinsic critic, and one step of policy and reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from irwrappers.validation import check_range
from sb3_ext.common import ppo_losses
from sb3_ext.common.gae import DiscountedSum
from sb3_ext.common.meta_gradient import InnerLoss, MetaGradient, Term, meta_gradient
from sb3_ext.common.optimizers import SGD, Adam, ParameterVector, Params, RMSprop, State, optimizer_from
from sb3_ext.common.reward_network import RewardNetwork, reward_defaults
from sb3_ext.lirpg.policies import ExtrinsicCritic, FunctionalModule
from sb3_ext.lirpg.rollout import ExtrinsicRecorder, LearnedRewardRollout, Samples, concatenate, make_rollout, slices

PolicyLoss = Callable[[Tensor, Tensor, Tensor | None, Samples, Tensor, Tensor], Tensor]
"""(V^mix ``[n]``, log π ``[n]``, entropy, samples, mixed advantages, mixed returns) → loss ``[]``, to be minimised."""
ExtrinsicLoss = Callable[[Tensor, Samples], Tensor]
"""(log π ``[n]`` after the update, samples) → the negative of J^ex ``[]``."""


class Point(NamedTuple):
    """Where gradients are taken: the policy's parameters, as one vector, its optimiser's state and learning rate, η, and the
    parameters of V^ex."""

    theta: Params
    state: State
    learning_rate: float
    reward: Params
    critic: Params


class Gradients(NamedTuple):
    """Each clipped to ``max_grad_norm``. policy: of each minibatch's loss, a vector. reward: of −J^ex in η. critic: of V^ex's
    loss. figures: ``[]``, for the log."""

    policy: list[Params]
    reward: Params
    critic: Params
    figures: dict[str, Tensor]


class LearnedRewardAlgorithm(OnPolicyAlgorithm):
    """Mixin for PPO and A2C: the policy is paid r_ex_coef · r_ex + r_in_coef · r_η(s, a), and η follows ∂J^ex(θ′)/∂η."""

    reward_network: RewardNetwork
    extrinsic_critic: ExtrinsicCritic
    r_ex_coef: float
    r_in_coef: float
    extrinsic_vf_coef: float
    second_moment_gradient: bool | None
    _recorder: ExtrinsicRecorder | None = None
    _paid = False  # whether the environment has ever paid anything but 0

    def _set_reward_arguments(
        self,
        r_ex_coef: float,
        r_in_coef: float,
        reward_learning_rate: float | Schedule,
        reward_kwargs: dict[str, Any] | None,
        extrinsic_vf_coef: float,
        second_moment_gradient: bool | None,
    ) -> None:
        check_range("r_ex_coef", r_ex_coef, 0)
        check_range("r_in_coef", r_in_coef, 0)
        if r_ex_coef == r_in_coef == 0:
            raise ValueError("r_ex_coef and r_in_coef are both 0: the policy would learn from nothing.")
        check_range("reward_learning_rate", reward_learning_rate, 0)
        check_range("extrinsic_vf_coef", extrinsic_vf_coef, 0)
        if not isinstance(reward_kwargs, dict | None):
            raise ValueError(f"reward_kwargs must be a dict of RewardNetwork's arguments or None, got {reward_kwargs!r}.")
        if second_moment_gradient not in (None, True, False):
            raise ValueError(f"second_moment_gradient must be True, False or None, got {second_moment_gradient!r}.")
        self.r_ex_coef = r_ex_coef
        self.r_in_coef = r_in_coef
        self.reward_learning_rate = reward_learning_rate
        self.reward_kwargs = reward_kwargs
        self.extrinsic_vf_coef = extrinsic_vf_coef
        self.second_moment_gradient = second_moment_gradient

    def _setup_model(self) -> None:
        super()._setup_model()
        self.reward_lr_schedule = FloatSchedule(self.reward_learning_rate)
        # The generator is left as it was, so that all the rest is drawn as by SB3's algorithm.
        with torch.random.fork_rng(devices=[]):
            try:
                settings = reward_defaults(self.policy, self.reward_kwargs or {})
                reward_network = RewardNetwork(self.observation_space, self.action_space, **settings)
            except TypeError as error:
                raise ValueError(f"reward_kwargs={self.reward_kwargs} do not fit RewardNetwork: {error}") from error
            critic = ExtrinsicCritic(self.policy)
        self.reward_network, self.extrinsic_critic = reward_network.to(self.device), critic.to(self.device)
        self.reward_optimizer = self._make_optimizer(self.reward_network, self.reward_lr_schedule(1))
        self.extrinsic_optimizer = self._make_optimizer(self.extrinsic_critic, self.lr_schedule(1))
        optimizer_from(self.policy.optimizer, FunctionalModule(self.policy).params)  # that it can be differentiated

    def _make_optimizer(self, module: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """Of the policy's kind, with its settings."""
        kwargs = self.policy.optimizer_kwargs
        if self.policy.optimizer_class is torch.optim.Adam and not kwargs.keys() & {"foreach", "differentiable"}:
            kwargs = {"fused": True, **kwargs}  # one call for all tensors
        return self.policy.optimizer_class(module.parameters(), lr=learning_rate, **kwargs)  # type: ignore[call-arg]

    # ------------------------------------------------------------------ rollouts

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        if self.r_in_coef == 0 and self.r_ex_coef == 1:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        self._recorder = ExtrinsicRecorder(env, self.r_ex_coef)
        return super().collect_rollouts(self._recorder, callback, rollout_buffer, n_rollout_steps)

    def _learns_a_reward(self) -> bool:
        """Whether there is one, and something to learn it from: while all that the environment ever paid is 0, r_η is noise,
        and so is the gradient that it would follow, V^ex's error alone."""
        if self.r_in_coef != 0 and not self._paid:
            assert self._recorder is not None
            self._paid = bool(self._recorder.stacked().any())
        return self.r_in_coef != 0 and self._paid

    def _rollout(self, chunk: int) -> LearnedRewardRollout:
        """The rollout just collected, with V^ex and Â^EX."""
        assert self._recorder is not None and self._last_episode_starts is not None
        # Without what was frozen since.
        modules = (self.policy, self.reward_network, self.extrinsic_critic)
        self._policy, self._reward, self._critic = (FunctionalModule(module) for module in modules)
        self._theta = ParameterVector(self._policy.params)

        def to_tensor(observations: Any) -> Any:
            return self.policy.obs_to_tensor(observations)[0]

        return make_rollout(
            self.rollout_buffer,
            self._recorder,
            self._last_obs,
            self._last_episode_starts,
            to_tensor,
            self.extrinsic_critic,
            chunk,
        )

    def intrinsic_rewards(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """r_η(s, a) ``[n]`` of observations ``[n, …]`` as the environment (with its ``VecNormalize``) shows them and of
        actions as the policy draws them, Box actions before they are clipped."""
        observations = self.policy.obs_to_tensor(observations)[0]
        with torch.no_grad():
            return self.reward_network(observations, torch.as_tensor(actions, device=self.device)).cpu().numpy()

    # ------------------------------------------------------------------ training

    def _update_learning_rates(self) -> None:
        self._update_learning_rate(self.policy.optimizer)
        update_learning_rate(self.extrinsic_optimizer, self.lr_schedule(self._current_progress_remaining))
        learning_rate = self.reward_lr_schedule(self._current_progress_remaining)
        update_learning_rate(self.reward_optimizer, learning_rate)
        self.logger.record("train/reward_learning_rate", learning_rate)

    @torch.no_grad()
    def _point(self) -> Point:
        """As everything is now."""
        optimizer, state = self._policy_optimizer()
        theta, state = self._theta.pack(self._policy.params), self._theta.pack_state(state)
        return Point(theta, state, optimizer.learning_rate, self._reward.params, self._critic.params)

    def _policy_optimizer(self) -> tuple[SGD | RMSprop | Adam, State]:
        return optimizer_from(self.policy.optimizer, self._policy.params, self.second_moment_gradient)

    def _gradients(
        self,
        point: Point,
        samples: Samples,
        discounted_sum: DiscountedSum,
        minibatches: Sequence[Tensor],
        policy_loss: PolicyLoss,
        extrinsic_loss: ExtrinsicLoss,
        clip_range_vf: float | None,
    ) -> Gradients:
        """Of a policy step on each of ``minibatches``, and of η and V^ex on all of them. Changes nothing.

        Args:
            samples, discounted_sum: of the whole rollout. minibatches: rows of it. policy_loss, extrinsic_loss: of a minibatch
                and of all. clip_range_vf: of V^ex.
        """
        reward, critic = ({name: x.detach().requires_grad_() for name, x in p.items()} for p in (point.reward, point.critic))
        rewards = self._reward.at(reward, "forward", samples.observations, samples.actions)
        mixed = samples.advantages + self.r_in_coef * discounted_sum.copy_by_copy(rewards)
        advantages = mixed[torch.cat(list(minibatches))]
        batches = [samples.rows(rows) for rows in minibatches]
        meta = self._meta_gradient(point, advantages, batches, policy_loss, extrinsic_loss)
        batch = concatenate(batches)
        values = self._critic.at(critic, "forward", batch.observations)
        value_loss = ppo_losses.value_loss(values, batch.extrinsic_values, batch.extrinsic_returns, clip_range_vf)
        gradients = torch.autograd.grad(
            [advantages, self.extrinsic_vf_coef * value_loss],
            [*reward.values(), *critic.values()],
            [meta.gradient["advantages"], torch.ones_like(value_loss)],
            allow_unused=True,
            materialize_grads=True,
        )
        policy_gradients = [self._clipped(gradient)[0] for gradient in meta.inner_gradients]
        reward_gradient, norm = self._clipped(dict(zip(reward, gradients[: len(reward)], strict=True)))
        critic_gradient, _ = self._clipped(dict(zip(critic, gradients[len(reward) :], strict=True)))
        figures = dict(extrinsic_loss=meta.outer_loss, extrinsic_value_loss=value_loss.detach(), gradient_norm=norm)
        return Gradients(policy_gradients, reward_gradient, critic_gradient, figures)

    def _clipped(self, gradient: Params) -> tuple[Params, Tensor]:
        """As ``torch.nn.utils.clip_grad_norm_`` does it, and the norm before."""
        norm = nn.utils.get_total_norm(list(gradient.values()))
        scale = torch.clamp(self.max_grad_norm / (norm + 1e-6), max=1.0)
        return {name: value * scale for name, value in gradient.items()}, norm

    def _meta_gradient(
        self,
        point: Point,
        advantages: Tensor,
        batches: Sequence[Samples],
        policy_loss: PolicyLoss,
        extrinsic_loss: ExtrinsicLoss,
    ) -> MetaGradient:
        """Of J^ex on all of ``batches`` after a policy update on each, in the mixed ``advantages`` ``[n]`` of all of them.

        All of the policy's trainable parameters take part in the update; the mixed advantages reach it through the policy's
        loss, through the targets of V^mix (by a shared features extractor and by the clip of the gradient's norm) and through
        the optimiser.
        """
        policy, theta = self._policy, self._theta
        parts = slices(batches)

        def inner_loss(batch: Samples, part: slice) -> InnerLoss:
            def loss(params: Params, seen: Params, paying: Params) -> Tensor:
                mixed = paying["advantages"][part]
                values, log_prob, entropy = policy.at(
                    theta.unpack(params), "evaluate_actions", batch.observations, batch.actions
                )
                return policy_loss(values.flatten(), log_prob, entropy, batch, mixed, mixed + batch.old_values)

            return loss

        def outer_loss(params: Params, acting: Params) -> Tensor:
            log_prob = policy.at(theta.unpack(params), "get_distribution", samples.observations).log_prob(samples.actions)
            return extrinsic_loss(log_prob, samples)

        samples = concatenate(batches)
        terms: tuple[Term, ...] = ("reward",) if len(batches) == 1 else ("reward", "multi_step")
        optimizer = replace(self._policy_optimizer()[0], learning_rate=point.learning_rate)
        return meta_gradient(
            point.theta,
            {"advantages": advantages},
            [inner_loss(batch, part) for batch, part in zip(batches, parts, strict=True)],
            outer_loss,
            optimizer,
            point.state,
            terms=terms,
            max_grad_norm=self.max_grad_norm,
        )

    def _policy_step(self, gradient: Params) -> None:
        """Of the policy's own optimiser."""
        for name, value in self._theta.unpack(gradient).items():
            self._policy.params[name].grad = value
        self.policy.optimizer.step()

    def _reward_step(self, gradients: Gradients, logs: dict[str, list[float]]) -> None:
        """Of η and V^ex."""
        for module, values in ((self._reward, gradients.reward), (self._critic, gradients.critic)):
            for name, value in values.items():
                module.params[name].grad = value
        self.reward_optimizer.step()
        self.extrinsic_optimizer.step()
        for name, value in gradients.figures.items():
            logs[name].append(value.item())

    def _log_reward(self, rollout: LearnedRewardRollout) -> None:
        with torch.no_grad():
            rewards = self.reward_network(rollout.samples.observations, rollout.samples.actions)
            paid = self.r_in_coef * rollout.discounted_sum.copy_by_copy(rewards)
            mixed_returns = rollout.samples.advantages + paid + rollout.samples.old_values
        record, samples = self.logger.record, rollout.samples
        record("lirpg/reward_mean", rewards.mean().item())
        record("lirpg/reward_std", rewards.std(correction=0).item())
        record("train/explained_variance", _explained(samples.old_values, mixed_returns))
        record("lirpg/explained_variance", _explained(samples.extrinsic_values, samples.extrinsic_returns))

    # ------------------------------------------------------------------ saving

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_recorder", "_policy", "_reward", "_critic", "_theta"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, "reward_network", "reward_optimizer", "extrinsic_critic", "extrinsic_optimizer"], tensors


def _explained(values: Tensor, returns: Tensor) -> float:
    return float(explained_variance(values.cpu().numpy(), returns.cpu().numpy()))
