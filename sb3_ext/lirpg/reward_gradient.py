"""The gradients of LIRPG's two forms: of the policy's loss, and of the extrinsic objective after the policy's step in η."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from irwrappers.validation import check_range
from sb3_ext.common import ppo_losses
from sb3_ext.common.gae import DiscountedSum
from sb3_ext.common.meta_gradient import MetaGradient, Term, meta_gradient
from sb3_ext.common.optimizers import ParameterVector, Params, State, optimizer_from
from sb3_ext.learned_reward.algorithm import LearnedRewardAlgorithm, Logs
from sb3_ext.learned_reward.functional_module import FunctionalModule
from sb3_ext.learned_reward.reward_network import make_reward_network
from sb3_ext.learned_reward.rollout import LearnedRewardRollout, Samples

PolicyLoss = Callable[[Tensor, Tensor, Tensor | None, Samples, Tensor, Tensor], Tensor]
"""(V^mix ``[n]``, log π ``[n]``, entropy, samples, mixed advantages, mixed returns) → loss ``[]``, to be minimised."""
ExtrinsicLoss = Callable[[Tensor, Samples], Tensor]
"""(log π ``[n]`` after the policy's step, samples) → the negative of J^ex ``[]``."""


class Point(NamedTuple):
    """The parameters at which gradients are computed.

    Attributes:
        theta: the policy's parameters, as one vector.
        state: state of the policy's optimiser.
        learning_rate: of the policy's optimiser.
        reward: η, the parameters of the reward network.
        critic: the parameters of V^ex.
    """

    theta: Params
    state: State
    learning_rate: float
    reward: Params
    critic: Params


class Gradients(NamedTuple):
    """Gradients on one minibatch, each clipped to ``max_grad_norm``.

    Attributes:
        policy: of the policy's loss, as one vector.
        reward: of −J^ex in η.
        critic: of V^ex's loss.
        figures: values ``[]`` by log key.
    """

    policy: Params
    reward: Params
    critic: Params
    figures: dict[str, Tensor]


class RewardGradientAlgorithm(LearnedRewardAlgorithm):
    """Mixin of LIRPG's two forms: a step of the policy, and one of η along ∂J^ex(θ′)/∂η.

    Args:
        *args: positional arguments of SB3's algorithm.
        extrinsic_coef: weight of the extrinsic reward in the policy's reward.
        intrinsic_coef: weight of the learned reward in the policy's reward.
        reward_learning_rate: learning rate of the reward network.
        reward_network_kwargs: arguments of the reward network.
        extrinsic_vf_coef: weight of the loss of V^ex.
        **kwargs: keyword arguments of SB3's algorithm.
    """

    def __init__(self, *args: Any, extrinsic_vf_coef: float, **kwargs: Any) -> None:
        check_range("extrinsic_vf_coef", extrinsic_vf_coef, 0, schedule=False)
        self.extrinsic_vf_coef = extrinsic_vf_coef
        super().__init__(*args, **kwargs)

    def _setup_learned_reward(self) -> None:
        # The generator's state is restored, so that everything else is sampled as by SB3's algorithm.
        with torch.random.fork_rng(devices=[]):
            self.reward_network = make_reward_network(self.policy, self.reward_network_kwargs).to(self.device)
            super()._setup_learned_reward()
        optimizer_from(self.policy.optimizer, FunctionalModule(self.policy).params)  # raises if it is not differentiable

    def _make_optimizer(self, module: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """Return an optimiser of the policy's class with the policy's settings."""
        kwargs = self.policy.optimizer_kwargs
        if self.policy.optimizer_class is torch.optim.Adam and not kwargs.keys() & {"foreach", "differentiable"}:
            kwargs = {"fused": True, **kwargs}  # one call for all tensors
        return self.policy.optimizer_class(module.parameters(), lr=learning_rate, **kwargs)  # type: ignore[call-arg]

    def _learns_reward(self) -> bool:
        """Return whether there is a learned reward, and an extrinsic one to learn it from."""
        return self.intrinsic_coef != 0 and self._has_seen_reward()

    def _rollout(self, chunk_size: int) -> LearnedRewardRollout:
        # Made for every rollout, because parameters may have been frozen since the last one.
        modules = (self.policy, self.reward_network, self.extrinsic_critic)
        self._policy, self._reward, self._critic = (FunctionalModule(module) for module in modules)
        self._theta = ParameterVector(self._policy.params)
        return super()._rollout(chunk_size)

    # ------------------------------------------------------------------ gradients

    @torch.no_grad()
    def _point(self) -> Point:
        """Return the present parameters."""
        optimizer, state = optimizer_from(self.policy.optimizer, self._policy.params)
        theta, state = self._theta.pack(self._policy.params), self._theta.pack_state(state)
        return Point(theta, state, optimizer.learning_rate, self._reward.params, self._critic.params)

    def _gradients(
        self,
        point: Point,
        samples: Samples,
        discounted_sum: DiscountedSum,
        rows: Tensor,
        policy_loss: PolicyLoss,
        extrinsic_loss: ExtrinsicLoss,
        clip_range_vf: float | None,
    ) -> Gradients:
        """Return the gradients on a minibatch; nothing is changed.

        Args:
            point: where they are computed.
            samples: the whole rollout.
            discounted_sum: of the whole rollout.
            rows: indices of the minibatch.
            policy_loss: the policy's loss.
            extrinsic_loss: the negative of J^ex.
            clip_range_vf: of V^ex, or None.
        """
        reward, critic = ({name: x.detach().requires_grad_() for name, x in p.items()} for p in (point.reward, point.critic))
        rewards = self._reward.at(reward, "forward", samples.observations, samples.actions)
        mixed = samples.advantages + self.intrinsic_coef * discounted_sum.copy_by_copy(rewards)
        advantages, batch = mixed[rows], samples.rows(rows)
        meta = self._meta_gradient(point, advantages, batch, policy_loss, extrinsic_loss)
        values = self._critic.at(critic, "forward", batch.observations)
        value_loss = ppo_losses.value_loss(values, batch.extrinsic_values, batch.extrinsic_returns, clip_range_vf)
        gradients = torch.autograd.grad(
            [advantages, self.extrinsic_vf_coef * value_loss],
            [*reward.values(), *critic.values()],
            [meta.gradient["advantages"], torch.ones_like(value_loss)],
            allow_unused=True,
            materialize_grads=True,
        )
        policy_gradient, _ = self._clipped(meta.inner_gradients[0])
        reward_gradient, norm = self._clipped(dict(zip(reward, gradients[: len(reward)], strict=True)))
        critic_gradient, _ = self._clipped(dict(zip(critic, gradients[len(reward) :], strict=True)))
        figures = {
            "lirpg/extrinsic_loss": meta.outer_loss,
            "lirpg/meta_gradient_norm": norm,
            "train/extrinsic_value_loss": value_loss.detach(),
        }
        return Gradients(policy_gradient, reward_gradient, critic_gradient, figures)

    def _clipped(self, gradient: Params) -> tuple[Params, Tensor]:
        """Return the gradient clipped as by ``torch.nn.utils.clip_grad_norm_``, and its norm before."""
        norm = nn.utils.get_total_norm(list(gradient.values()))
        scale = torch.clamp(self.max_grad_norm / (norm + 1e-6), max=1.0)
        return {name: value * scale for name, value in gradient.items()}, norm

    def _meta_gradient(
        self,
        point: Point,
        advantages: Tensor,
        batch: Samples,
        policy_loss: PolicyLoss,
        extrinsic_loss: ExtrinsicLoss,
    ) -> MetaGradient:
        """Return the gradient of −J^ex after the policy's step in the mixed ``advantages`` ``[n]`` of ``batch``.

        All trainable parameters of the policy take part in the step. The mixed advantages enter it through the policy's loss,
        through the targets of V^mix (by a shared features extractor and by the clip of the gradient's norm) and through the
        optimiser.
        """
        policy, theta = self._policy, self._theta

        def inner_loss(params: Params, _acting: Params, learned: Params) -> Tensor:
            mixed = learned["advantages"]
            values, log_prob, entropy = policy.at(theta.unpack(params), "evaluate_actions", batch.observations, batch.actions)
            return policy_loss(values.flatten(), log_prob, entropy, batch, mixed, mixed + batch.old_values)

        def outer_loss(params: Params, _acting: Params) -> Tensor:
            log_prob = policy.at(theta.unpack(params), "get_distribution", batch.observations).log_prob(batch.actions)
            return extrinsic_loss(log_prob, batch)

        terms: tuple[Term, ...] = ("reward",)
        optimizer = replace(optimizer_from(self.policy.optimizer, policy.params)[0], learning_rate=point.learning_rate)
        return meta_gradient(
            point.theta,
            {"advantages": advantages},
            [inner_loss],
            outer_loss,
            optimizer,
            point.state,
            terms=terms,
            max_grad_norm=self.max_grad_norm,
        )

    # ------------------------------------------------------------------ steps and logs

    def _step(self, gradients: Gradients) -> None:
        """Take a step of the policy's, the reward network's and V^ex's optimisers."""
        for module, values in (
            (self._policy, self._theta.unpack(gradients.policy)),
            (self._reward, gradients.reward),
            (self._critic, gradients.critic),
        ):
            for name, value in values.items():
                module.params[name].grad = value
        for optimizer in (self.policy.optimizer, self.reward_optimizer, self.extrinsic_optimizer):
            optimizer.step()

    def _log_update(self, rollout: LearnedRewardRollout, logs: Logs) -> None:
        """Log the learned reward of the rollout after the update, and the training."""
        samples = rollout.samples
        with torch.no_grad():
            rewards = self.reward_network(samples.observations, samples.actions)
            learned = self.intrinsic_coef * rollout.discounted_sum.copy_by_copy(rewards)
            mixed_returns = samples.advantages + learned + samples.old_values
        self.logger.record("lirpg/reward_mean", rewards.mean().item())
        self.logger.record("lirpg/reward_std", rewards.std(correction=0).item())
        self._log_training(rollout, mixed_returns, logs)

    # ------------------------------------------------------------------ saving

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_policy", "_reward", "_critic", "_theta"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, "reward_network"], tensors
