"""The steps of an iteration of the paper's algorithm and their logs; ``paper.py`` composes them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from irwrappers import IntrinsicReward, RunningStd
from irwrappers.seeding import seeded
from sb3_ext.common.episode_rollout import EpisodeRollout
from sb3_ext.common.optimizers import Params, global_norm
from sb3_ext.common.trust_region import TrustRegionResult, trust_region_step
from sb3_ext.irpo.batch import EXTRINSIC, PolicyBatch, estimate_advantages, make_policy_batch
from sb3_ext.irpo.critics import critic_values, update_critics
from sb3_ext.irpo.follow import cosine_and_ratio
from sb3_ext.irpo.gradient import SurrogateBatch, exploratory_update, surrogate_gradient
from sb3_ext.irpo.gradient_weights import weights_at
from sb3_ext.irpo.policies import IRPOPolicy
from sb3_ext.irpo.policy_rollouts import collect_policies, split_rollout


class PaperPieces(OnPolicyAlgorithm):
    """Methods that collect with a policy, evaluate its batch, and update exploratory policies and the base policy."""

    policy: IRPOPolicy
    intrinsic_reward: IntrinsicReward
    intrinsic_std: RunningStd
    intrinsic_gamma: float
    intrinsic_reward_spec: Any
    intrinsic_reward_kwargs: dict[str, Any]
    normalize_advantage: bool
    paper: Any  # PaperSettings, or None where IRPO does not run the paper's algorithm
    _base_seed: int
    _iteration: int

    _tracked_returns: np.ndarray
    _reward_seeds: np.random.Generator
    _generator: torch.Generator
    _fit_share: float

    @property
    def _n_channels(self) -> int:
        """K, the number of channels of the intrinsic reward."""
        return self.intrinsic_reward.n_rewards

    @property
    def _progress(self) -> float:
        """Share of training that is done, 0 to 1."""
        return 1 - self._current_progress_remaining

    def _now(self, setting: float | Schedule) -> float:
        return setting(self._current_progress_remaining) if callable(setting) else setting

    def _collect(self, params: Params, rollouts: list[EpisodeRollout], callback: BaseCallback) -> PolicyBatch | None:
        """Collect a batch of each policy in ``params`` ``[P, ...]``; return None if a callback stopped training.

        Args:
            params: K policies, or the base policy (P = 1): each of the K policies then learns from its own part of the
                environments if these have half a batch each, otherwise from all of them.
            rollouts: list to which the rollout is appended.
            callback: called after each step.
        """
        assert self.env is not None
        on_step = partial(self._on_step, callback)
        rollout = collect_policies(self.env, self.policy, params, on_step, self.paper.batch_size, self._generator)
        if rollout is None:
            return None
        rollouts.append(rollout)
        if len(next(iter(params.values()))) == self._n_channels:
            return make_policy_batch(rollout, self.policy, params)
        rollout = split_rollout(rollout, self._n_channels, self.paper.batch_size)
        return make_policy_batch(rollout, self.policy, self._repeat({n: v[0] for n, v in params.items()}))

    def _on_step(self, callback: BaseCallback, step: dict[str, Any]) -> bool:
        """Count a step of all environments and call the callback; return False if it stopped training."""
        assert self.env is not None
        self.num_timesteps += self.env.num_envs
        callback.update_locals(step)
        if not callback.on_step():
            return False
        ended = np.flatnonzero(step["dones"])
        self._update_info_buffer([step["infos"][i] for i in ended], step["dones"][ended])
        return True

    def _evaluate(self, batch: PolicyBatch) -> tuple[Tensor, Tensor]:
        """Return advantages ``[2, K, M]`` and each policy's mean intrinsic return ``[K]``, both computed before the critics
        and the intrinsic reward learn from the batch."""
        rollout = batch.rollout
        transitions = rollout.transitions(self.action_space)
        self.intrinsic_reward.forget()  # a rollout is whole episodes from reset
        rewards = self._own_channels(self.intrinsic_reward.compute(transitions), rollout.n_policies)  # [T, K, n]
        if not torch.isfinite(rewards).all():
            raise ValueError(f"The intrinsic reward {type(self.intrinsic_reward).__name__} gave NaN or infinite values.")
        self.intrinsic_std.update(rewards.movedim(1, -1), batch.per_policy(rollout.valid).movedim(1, -1))
        rewards = self.intrinsic_std.normalize(rewards.movedim(1, -1)).movedim(-1, 1)
        with seeded(int(self._reward_seeds.integers(2**31)), self.device):
            log = self.intrinsic_reward.update(transitions)
        for key, value in log.items():
            self.logger.record_mean(f"intrinsic/{key}", value)

        next_states = None
        if self.paper.bootstrap_truncated:
            next_rollout = copy.copy(rollout)
            next_rollout.observations = rollout.next_observations
            next_states = make_policy_batch(next_rollout, self.policy, self._repeat(self.policy.base.as_dict())).states
        advantages = estimate_advantages(
            batch,
            rewards,
            partial(critic_values, self.policy),
            gammas=(self.gamma, self.intrinsic_gamma),
            gae_lambda=self.gae_lambda,
            normalize=self.normalize_advantage,
            next_states=next_states,
        )
        value_loss = update_critics(
            self.policy,
            batch.states,
            advantages.targets,
            batch.valid,
            self.paper.n_critic_minibatches,
            self.max_grad_norm,
            self._generator,
        )
        self.logger.record_mean("train/value_loss", value_loss)
        step_reward = (batch.flat(batch.per_policy(rollout.rewards)) * batch.valid).sum(1) / batch.valid.sum(1)
        self._tracked_returns = (
            self.paper.ema_decay * self._tracked_returns + (1 - self.paper.ema_decay) * step_reward.cpu().numpy()
        )
        return advantages.normalized, batch.mean_episode_return(rewards, self.intrinsic_gamma)

    def _repeat(self, params: Params) -> Params:
        """Return ``params`` repeated K times, ``[K, ...]``."""
        return {name: value.expand(self._n_channels, *value.shape).clone() for name, value in params.items()}

    def _own_channels(self, rewards: Tensor, n_policies: int) -> Tensor:
        """Select from rewards ``[T, E, K]`` channel k in the environments of policy k, or in all of the base policy's."""
        grouped = rewards.unflatten(1, (n_policies, -1))
        if n_policies == 1:
            return grouped[:, 0].movedim(-1, 1)
        return grouped.diagonal(dim1=1, dim2=3).movedim(-1, 1)

    def _surrogate_gradient(
        self,
        params: Params,
        batch: SurrogateBatch,
        max_grad_norm: float | Literal["default"] | None = "default",
        ent_coef: float = 0.0,
    ) -> Params:
        clip = self.max_grad_norm if max_grad_norm == "default" else max_grad_norm
        return surrogate_gradient(
            params,
            batch,
            clip,
            actor=self.policy.actor,
            distribution=self.policy.distribution,
            surrogate=self.paper.surrogate,
            ent_coef=ent_coef,
        )

    def _exploratory_updates(self, surrogate: SurrogateBatch, step: int) -> Callable[[Params], Params]:
        """Return update number ``step`` of all K policies, ``[K, ...]`` → ``[K, ...]``: θ̃ + α clip(∇J_R̃), or that of Adam,
        whose moments are entries ``m/…`` and ``v/…`` beside the weights."""
        update = partial(
            exploratory_update,
            learning_rate=self.paper.exploratory_learning_rate,
            max_grad_norm=self.max_grad_norm,
            optimizer=self.paper.exploratory_optimizer,
            step=step,
            actor=self.policy.actor,
            distribution=self.policy.distribution,
            surrogate=self.paper.surrogate,
            ent_coef=self.paper.exploratory_ent_coef,
        )
        return lambda thetas: vmap(update)(thetas, surrogate)

    def _weights(self, returns: Tensor) -> tuple[Tensor, float]:
        """Return ω ``[K]`` and its temperature."""
        temperature = 0.0
        if self.paper.weighting == "softmax":
            temperature = self._now(self.paper.temperature)
        elif self.paper.weighting == "ema":
            explored = (self._progress - self._fit_share) / max(1 - self._fit_share, 1e-9)
            temperature = (
                1 - max(explored, 0) / self.paper.temperature_decay
            )  # negative in a second learn(), which needs no fit
            returns = torch.as_tensor(self._tracked_returns, dtype=returns.dtype, device=returns.device)
        elif self.paper.weighting == "uniform":
            temperature = math.inf
        return weights_at(returns, temperature), max(temperature, 0.0)

    def _base_kl(self, theta: Params, base: PolicyBatch) -> Callable[[Params], Tensor]:
        """Return the function params → mean KL(π_θ ‖ π_params) over the base policy's batch."""
        whole = base.as_one_policy()
        states = tree_map(lambda x: x[0], whole.states.rows)
        share = whole.states.add_up(whole.valid.to(next(iter(theta.values())).dtype))[0] / whole.valid.sum()
        with torch.no_grad():
            old = self.policy.actor(theta, states)

        def kl_divergence(params: Params) -> Tensor:
            return (self.policy.distribution.kl_divergence(old, self.policy.actor(params, states)) * share).sum()

        return kl_divergence

    @torch.no_grad()
    def _move_base_to(self, theta: Params, params: Params, base: PolicyBatch) -> TrustRegionResult:
        """Return a step from θ to ``params``, whatever its divergence."""
        return TrustRegionResult(params, float(self._base_kl(theta, base)(params)), 0, True)

    def _update_base(self, theta: Params, gradient: Params, base: PolicyBatch) -> TrustRegionResult:
        """Return a trust-region (or SGD) step from θ along the ascent direction ``gradient``; KL over ``base``."""
        if self.paper.base_update == "sgd":
            params = {name: value + self.paper.base_learning_rate * gradient[name] for name, value in theta.items()}
            return self._move_base_to(theta, params, base)
        return trust_region_step(
            theta,
            gradient,
            self._base_kl(theta, base),
            self._now(self.paper.target_kl),
            cg_max_steps=self.paper.cg_max_steps,
            cg_damping=self.paper.cg_damping,
            shrinking_factor=self.paper.line_search_shrinking_factor,
            max_backtracks=self.paper.line_search_max_iter,
        )

    @torch.no_grad()
    def _deploy(self, theta: Params, thetas: Params, extrinsic: Params, returns: Tensor, base: bool) -> None:
        """Store θ and the exploratory policies after their extrinsic step, and deploy θ or the best of these."""
        after = {name: value + self.paper.exploratory_learning_rate * extrinsic[name] for name, value in thetas.items()}
        self.policy.base.assign(theta)
        self.policy.exploratory.assign(after)
        tracked = torch.as_tensor(self._tracked_returns) if self.paper.weighting == "ema" else returns
        best = int(tracked.argmax())
        actor = theta if base else {name: value[best] for name, value in after.items()}
        self.policy.deploy(actor, {name: value[EXTRINSIC, best] for name, value in self.policy.critics.as_dict().items()})

    # ------------------------------------------------------------------ logs

    def _log_base(self, theta: Params, base: PolicyBatch, step: TrustRegionResult) -> float:
        """Log the base policy and its step; return its mean discounted return."""
        base = base.as_one_policy()
        direct_batch = SurrogateBatch(*tree_map(lambda x: x[0], tuple(base.surrogate(base.returns_to_go(self.gamma)))))
        direct = self._surrogate_gradient(theta, direct_batch, max_grad_norm=None)
        record = self.logger.record
        base_return = float(base.mean_episode_return(base.per_policy(base.rollout.rewards), self.gamma)[0])
        record("rollout/base_return", base_return)
        record("train/direct_gradient_norm", float(global_norm(direct)))
        record("train/kl_divergence", step.kl)
        record("train/line_search_steps", step.backtracks)
        record("train/is_line_search_success", float(step.accepted))
        record("train/n_updates", self._n_updates + 1, exclude="tensorboard")
        if isinstance(self.action_space, spaces.Box):
            record("train/std", float(theta["log_std"].exp().mean()))
        return base_return

    def _log_pull_back(
        self, theta: Params, thetas: Params, extrinsic: Params, pulled_back: Params, base: PolicyBatch, rewarded: Tensor
    ) -> None:
        """Log the divergence of the exploratory policies, and how pulling back changes the gradients at their ends."""
        record, kl = self.logger.record, self._base_kl(theta, base)
        for k, name in enumerate(self.intrinsic_reward.channel_names):
            with torch.no_grad():
                record(f"exploration/kl_{k}_{name}", float(kl({n: value[k] for n, value in thetas.items()})))
            pair = ({n: value[k] for n, value in gradients.items()} for gradients in (extrinsic, pulled_back))
            cosine, ratio = cosine_and_ratio(*pair)
            record(f"exploration/cosine_{k}_{name}", cosine)
            record(f"exploration/norm_ratio_{k}_{name}", ratio)
        record("exploration/rewarded", float(rewarded.float().mean()))

    def _log_exploration(
        self, returns: Tensor, intrinsic_return: Tensor, weights: Tensor, temperature: float, gradient_norm: Tensor
    ) -> None:
        record = self.logger.record
        record("rollout/best_return", float(returns.max()))
        for k, name in enumerate(self.intrinsic_reward.channel_names):
            record(f"extrinsic_return/{k}_{name}", float(returns[k]))
            record(f"intrinsic_return/{k}_{name}", float(intrinsic_return[k]))
            record(f"weight/{k}_{name}", float(weights[k]))
        record("train/temperature", temperature)
        record("train/irpo_gradient_norm", float(gradient_norm))
