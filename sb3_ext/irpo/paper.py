"""The paper's algorithm: Cho & Tran, "Intrinsic Reward Policy Optimization" (arXiv 2601.21391), Algorithm 1.

    θ̃_k^(j+1) = θ̃_k^(j) + α ∇J_R̃k(θ̃_k^(j)),   ∇J_IRPO(θ) = Σ_k ω_k (∇_θ θ̃_k^(N))ᵀ ∇J_R(θ̃_k^(N))

The methods of :class:`sb3_ext.IRPO` that run an iteration; the settings are :class:`~sb3_ext.irpo.PaperSettings`.
"""

from __future__ import annotations

import math
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from irwrappers import IntrinsicReward, RunningStd, make_intrinsic_reward
from sb3_ext.common.episode_rollout import EpisodeRollout
from sb3_ext.common.normalization import update_statistics
from sb3_ext.common.optimizers import Params, backpropagate_through_updates, global_norm
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.irpo.batch import EXTRINSIC, INTRINSIC, PolicyBatch
from sb3_ext.irpo.gradient import SurrogateBatch
from sb3_ext.irpo.gradient_weights import (
    blend_gradients,
    direct_run,
    scaled,
    share_of_direct,
    weighted_sum,
)
from sb3_ext.irpo.paper_pieces import PaperPieces
from sb3_ext.irpo.policies import IRPOPolicy


class PaperAlgorithm(PaperPieces):
    """One iteration: begin K exploratory policies at the base policy, train each for N updates on its own intrinsic reward,
    and move the base policy along the extrinsic gradients at their ends, pulled back through those updates."""

    def _begin_paper(self) -> None:
        """Initialise the state that an iteration changes."""
        self._tracked_returns = np.zeros(0)  # EMA of the mean step reward, one for each exploratory policy
        self._fit_share = 0.0  # share of training that fitting the intrinsic reward took
        self._carries = False  # whether the next exploratory policies begin where the last ones ended
        self._direct_left = self._direct_run = 0  # iterations on the true gradient still to come, and when they were ordered

    def _make_paper_env(self, env_id: str) -> VecEnv:
        """Return environments in which one episode of full length in each makes a batch for each of the K policies."""
        probe = gym.make(env_id)
        horizon = probe.spec.max_episode_steps if probe.spec is not None else None
        n_policies = self._make_paper_reward(probe.observation_space, probe.action_space).n_rewards
        native = probe.spec is not None and probe.spec.vector_entry_point is not None
        probe.close()
        n_envs = math.ceil(self.paper.batch_size / horizon) if horizon and native else 1
        return make_vec_env(env_id, n_envs=n_policies * min(n_envs, 256))

    def _make_paper_reward(self, observation_space: spaces.Space, action_space: spaces.Space) -> IntrinsicReward:
        return make_intrinsic_reward(
            self.intrinsic_reward_spec, observation_space, action_space, **self.intrinsic_reward_kwargs
        )

    def _setup_paper(self) -> None:
        """Build the intrinsic reward, and the policy with K exploratory policies and their critics."""
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        reward = self._make_paper_reward(self.observation_space, self.action_space)
        self.intrinsic_reward = reward.to(self.device)
        self.intrinsic_std = RunningStd(reward.n_rewards).to(self.device)
        if not issubclass(self.policy_class, IRPOPolicy):
            raise ValueError(
                f"IRPO(paper=…) needs a policy derived from sb3_ext.irpo.IRPOPolicy, got {self.policy_class.__name__}."
            )
        self.policy = self.policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            n_exploratory=reward.n_rewards,
            **self.policy_kwargs,
        ).to(self.device)
        self.policy.set_training_mode(False)
        if len(self._tracked_returns) != reward.n_rewards:
            self._tracked_returns = np.zeros(reward.n_rewards)
        self._maybe_recommend_cpu("IRPOPolicy")

    def _paper_iteration(self, callback: BaseCallback) -> bool:
        """Run an iteration; return False if a callback stopped training, in which case nothing was learned."""
        rollouts = self._run_iteration(callback)
        if rollouts is None:
            return False
        update_statistics(self._vec_normalize_env, rollouts)
        return True

    def _maybe_recommend_cpu(self, mlp_class_name: str = "IntrinsicActorCriticPolicy") -> None:
        super()._maybe_recommend_cpu(mlp_class_name)  # with the default policy; the paper's stacked policies use a GPU well

    def _fit_intrinsic_reward(self, total_timesteps: int, progress_bar: bool) -> None:
        if not self.intrinsic_reward.needs_fit:
            return
        assert self.env is not None
        budget = max(int(self.paper.fit_fraction * (total_timesteps - self.num_timesteps)), self.n_envs)
        if self.verbose >= 1:
            print(f"Fitting the intrinsic reward {type(self.intrinsic_reward).__name__} on at most {budget} steps")
        try:
            steps = self.intrinsic_reward.fit(self.env, budget, seed=self._base_seed, progress_bar=progress_bar)
        except ValueError as error:
            error.add_note(f"learn({total_timesteps}) with fit_fraction={self.paper.fit_fraction} gives fit() {budget} steps.")
            raise
        self.num_timesteps += steps
        self._fit_share = self.num_timesteps / total_timesteps
        self.intrinsic_reward.to(self.device)

    def _run_iteration(self, callback: BaseCallback) -> list[EpisodeRollout] | None:
        """Make one base update (Algorithm 1 of the paper) and return its rollouts, or None if a callback stopped training."""
        assert self.env is not None
        seed = int(np.random.SeedSequence([self._base_seed, self._iteration]).generate_state(1)[0])
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._reward_seeds = np.random.default_rng(seed)
        self.env.seed(seed)
        self._update_learning_rate(self.policy.optimizer)
        callback.on_rollout_start()

        theta = {name: value.clone() for name, value in self.policy.base.as_dict().items()}
        rollouts: list[EpisodeRollout] = []
        base = self._collect({name: value[None] for name, value in theta.items()}, rollouts, callback)
        if base is None or not (self._explore if self._iteration_explores() else self._follow_direct)(
            theta, base, rollouts, callback
        ):
            return None
        self._iteration += 1
        self._n_updates += 1
        return rollouts

    def _explore(self, theta: Params, base: PolicyBatch, rollouts: list[EpisodeRollout], callback: BaseCallback) -> bool:
        """Train the exploratory policies and update the base policy; return False if a callback stopped training."""
        thetas, batch, base_advantages = self._repeat(theta), base, None
        if self._carries:
            ended = self.policy.exploratory.as_dict()
            thetas = {name: value + self.paper.carry_over * (ended[name] - value) for name, value in thetas.items()}
            collected = self._collect(thetas, rollouts, callback)
            if collected is None:
                return False
            batch = collected
        adam = self.paper.exploratory_optimizer == "adam"
        moments = {f"{m}/{name}": torch.zeros_like(value) for m in "mv" for name, value in thetas.items()} if adam else {}
        inputs: list[Params] = []
        surrogates: list[SurrogateBatch] = []
        for j in range(self.paper.n_exploratory_updates):
            if j % self.paper.updates_per_batch == 0:
                advantages, intrinsic_return = self._evaluate(batch)
                base_advantages = advantages[EXTRINSIC] if batch is base else base_advantages
            surrogates.append(batch.surrogate(advantages[INTRINSIC]))
            inputs.append(thetas | moments)
            updated = self._exploratory_updates(surrogates[-1], j)(inputs[-1])
            thetas, moments = ({name: updated[name] for name in part} for part in (thetas, moments))
            if (j + 1) % self.paper.updates_per_batch == 0 or j + 1 == self.paper.n_exploratory_updates:
                collected = self._collect(thetas, rollouts, callback)
                if collected is None:
                    return False
                batch = collected
        advantages, intrinsic_return = self._evaluate(batch)
        callback.update_locals(locals())
        callback.on_rollout_end()

        # The extrinsic gradients at the ends; 0 where the batch contains no reward, for normalised advantages are O(1) then.
        rewarded = batch.rewarded()
        extrinsic = vmap(partial(self._surrogate_gradient, ent_coef=self.ent_coef))(
            thetas, batch.surrogate(advantages[EXTRINSIC])
        )
        extrinsic = scaled(rewarded.to(intrinsic_return.dtype), extrinsic)
        raw = vmap(partial(self._surrogate_gradient, max_grad_norm=None))(
            thetas, batch.surrogate(batch.returns_to_go(self.gamma))
        )
        pulled_back, raw_pulled_back = self._pull_back(inputs, surrogates, extrinsic, raw)
        self._log_pull_back(theta, thetas, extrinsic, pulled_back, base, rewarded)

        returns = batch.mean_episode_return(batch.per_policy(batch.rollout.rewards), self.gamma)
        weights, temperature = self._weights(returns)
        base_unrewarded = self.paper.carry_over > 0 and not bool(base.rewarded().any())
        if base_unrewarded and float(returns.max()) > 0:
            step = self._move_base_to(theta, {name: value[returns.argmax()] for name, value in thetas.items()}, base)
        else:
            gradient = weighted_sum(weights, pulled_back)
            if self.paper.blend is not None and base_advantages is not None:
                gradient = self._blend_true_gradient(theta, gradient, base, base_advantages)
            step = self._update_base(theta, gradient, base)
        self._carries = base_unrewarded and not bool(rewarded.any())
        base_return = self._log_base(theta, base, step)
        base_is_best = self.paper.blend is not None and base_return > float(returns.max())
        self._deploy(step.params, thetas, extrinsic, returns, self.paper.deploy == "base" or base_is_best)
        if self.paper.blend == "switch":
            self._direct_left = self._direct_run = direct_run(self._direct_run, base_return, float(returns.max()))
        self._log_exploration(
            returns, intrinsic_return, weights, temperature, global_norm(weighted_sum(weights, raw_pulled_back))
        )
        return True

    def _pull_back(self, inputs: list[Params], surrogates: list[SurrogateBatch], *gradients: Params) -> tuple[Params, ...]:
        """Pull gradients ``[K, ...]`` at the ends of the exploratory policies back to their beginnings, or return them."""
        if not self.paper.pull_back:
            return gradients
        updates = [self._exploratory_updates(surrogate, j) for j, surrogate in enumerate(surrogates)]
        # The objective does not depend on the optimiser's moments.
        zeros = {name: torch.zeros_like(value) for name, value in inputs[0].items() if name not in gradients[0]}
        pulled = backpropagate_through_updates(updates, inputs, *(gradient | zeros for gradient in gradients))
        return tuple({name: tree[name] for name in gradients[0]} for tree in pulled)

    def _iteration_explores(self) -> bool:
        """Return whether this iteration trains exploratory policies; with a ``blend`` it may use the true gradient alone."""
        if self.paper.blend == "abrupt":
            return self._progress < self.paper.blend_start
        return self._direct_left == 0

    def _follow_direct(self, theta: Params, base: PolicyBatch, rollouts: list[EpisodeRollout], callback: BaseCallback) -> bool:
        """Run an iteration on the true gradient of the base policy alone."""
        advantages, _ = self._evaluate(base)
        callback.update_locals(locals())
        callback.on_rollout_end()
        step = self._update_base(theta, self._direct_gradients(theta, base, advantages[EXTRINSIC])[0], base)
        self.policy.base.assign(step.params)
        self.policy.deploy(step.params, {name: value[EXTRINSIC, 0] for name, value in self.policy.critics.as_dict().items()})
        self._direct_left = max(0, self._direct_left - 1)
        self._log_base(theta, base, step)
        return True

    def _blend_true_gradient(self, theta: Params, gradient: Params, base: PolicyBatch, advantages: Tensor) -> Params:
        """Return the blend of the IRPO ``gradient`` with the true one, whose advantages are ``[K, M]``."""
        assert self.paper.blend is not None
        direct, halves = self._direct_gradients(theta, base, advantages)
        share = share_of_direct(self.paper.blend, self._progress, self.paper.blend_start, gradient, direct, halves)
        self.logger.record("train/direct_share", share)
        return blend_gradients(gradient, direct, share)

    def _direct_gradients(self, theta: Params, base: PolicyBatch, advantages: Tensor) -> tuple[Params, tuple[Params, Params]]:
        """Return the true gradient from the base policy's batch, and those from the two halves of its environments.

        Args:
            theta: θ.
            base: batch of the base policy; the gradients are 0 while it contains no reward.
            advantages: ``[K, M]`` of the K extrinsic critics, whose mean is taken where each evaluated all transitions.
        """
        whole, rewarded = base.as_one_policy(), float(base.rewarded().any())
        mean = base.merged(advantages) * rewarded
        n_envs = base.rollout.valid.shape[1]
        second = (torch.arange(n_envs, device=mean.device) % 2).expand(len(base.rollout.valid), n_envs).flatten()
        parts = torch.stack([mean, 2 * mean * (1 - second), 2 * mean * second])
        gradients = []
        for part, ent_coef in zip(parts, (self.ent_coef, 0.0, 0.0), strict=True):
            batch = SurrogateBatch(*tree_map(lambda x: x[0], tuple(whole.surrogate(part))))
            gradients.append(self._surrogate_gradient(theta, batch, ent_coef=ent_coef * rewarded))
        return gradients[0], (gradients[1], gradients[2])
