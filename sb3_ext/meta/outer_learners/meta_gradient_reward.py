"""MetaGradientReward: learn to reward a learning agent by a gradient through its updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from irwrappers.validation import check_range
from sb3_ext.common.sb3_arguments import sb3_arguments
from sb3_ext.meta.lifetimes.dense_rewards import dense_reward
from sb3_ext.meta.lifetimes.inner_agents import InnerAgents, InnerBatch, Minibatch
from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv
from sb3_ext.meta.outer_learners.advantage_gradient import InnerUpdate, advantage_gradient
from sb3_ext.meta.outer_learners.lifetime_algorithm import LifetimeAlgorithm
from sb3_ext.meta.outer_learners.lifetime_collection import Job, Lifetimes, collect
from sb3_ext.meta.outer_learners.linear_baseline import linear_baseline, normalized_advantages
from sb3_ext.meta.outer_learners.policies import MetaRewardPolicy


class MetaGradientReward(LifetimeAlgorithm):
    """Train an LSTM to reward PPO agents by a meta-gradient, where :class:`~sb3_ext.MetaReward` is black-box.

    An iteration runs the B lifetimes of a :class:`LifetimeVecEnv`. Every inner batch but the last is followed by an update of
    the agents, θ → θ'(η), on rewards r_η; η descends −J(θ'(η)), PPO's clipped loss with the advantages of the task's own
    dense reward (``info["shaped_reward"]``, known in meta-training only). LIRPG (Zheng, Oh & Singh, arXiv 1804.06459) does so
    within one task. Here one network rewards agents on many tasks, and its input is that of the black box, the sparse signal.

    θ' comes from the first ``n_unroll`` minibatch steps of the update, of which the agents take all. J is estimated on the
    same batch, with the importance ratio of θ' to θ: a batch thus serves for many steps of η, each with its own rewards and
    θ'. The effect of an update on later ones is not in the gradient: exploration that is useful only after the next update
    can be learned by the black box, and not here.

    Logs ``train/outer_loss`` (−J(θ'), 0 for an update without effect), ``train/gradient_norm`` and ``train/reward_std``.

    Args:
        policy: ``"MlpLstmPolicy"`` or a subclass of :class:`MetaRewardPolicy`.
        env: a :class:`LifetimeVecEnv` with ``signal="reward"`` or ``"advantage"``.
        learning_rate: of η, with one step for each inner batch; back-propagation through the LSTM stops at its beginning.
        n_epochs: passes over the lifetimes of an iteration.
        gae_lambda: λ of the task's advantages; smaller than the agents', since these only separate good steps from bad.
        max_grad_norm: largest norm of η's gradient, to which every agent contributes alike, whatever the size of its own.
        stats_window_size: episodes over which ``rollout/…`` is averaged.
        tensorboard_log: folder of the TensorBoard log, or None.
        policy_kwargs: arguments of the policy.
        verbose: 0 for no output, 1 for information, 2 for debugging.
        seed: of weights, tasks, agents and environments.
        device: of the policy.
        _init_setup_model: whether the networks are built at once.
        n_unroll: number of minibatch steps that are differentiated. Default: an epoch of PointGoal's agents, so that every
            step of the batch takes part; three epochs did not separate good steps from bad any better.
        unroll_learning_rate: learning rate of the differentiated steps, which are plain gradient steps; None: the agents' own
            Adam steps. Adam's first step is the sign of the gradient, and with the second moment held fixed its derivative is
            a poorer guide to which steps were good. On PointGoal the two end about equal.

    Raises:
        ValueError: for an argument out of range and for an environment of another kind.
    """

    def __init__(
        self,
        policy: str | type[MetaRewardPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        n_epochs: int = 4,
        gae_lambda: float = 0.5,
        max_grad_norm: float = 0.5,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        n_unroll: int = 4,
        unroll_learning_rate: float | None = 0.1,
    ) -> None:
        for name, count in (("n_epochs", n_epochs), ("n_unroll", n_unroll)):
            check_range(name, count, 1, integer=True)
        if unroll_learning_rate is not None:
            check_range("unroll_learning_rate", unroll_learning_rate, 0, open_low=True)
        check_range("gae_lambda", gae_lambda, 0, 1)
        check_range("max_grad_norm", max_grad_norm, 0, open_low=True)
        self.n_epochs, self.n_unroll, self.unroll_learning_rate = n_epochs, n_unroll, unroll_learning_rate
        self.gae_lambda, self.max_grad_norm = gae_lambda, max_grad_norm
        super().__init__(**sb3_arguments(LifetimeAlgorithm, locals()))

    def _iterate(self, env: LifetimeVecEnv, callback: BaseCallback, seed: int) -> bool:
        callback.on_rollout_start()
        updates: list[InnerUpdate] = []

        def record(batch: InnerBatch, last_observations: Tensor, order: Tensor) -> None:
            updates.append(InnerUpdate.of(env.agents, batch, last_observations, order, env.signal == "advantage"))

        env.before_update = record
        try:
            job = Job(seed, n_dense=0, noise=False, state=env.get_state())
            result = collect(self.policy.network, env, job, self._step_counter(env, callback))
        finally:
            env.before_update = None
        if result is None:
            return False
        self._log_lifetimes(result.infos)
        callback.update_locals(locals())
        callback.on_rollout_end()
        self._train(env, updates, result.lifetimes)
        return True

    def _train(self, env: LifetimeVecEnv, updates: list[InnerUpdate], lifetimes: Lifetimes) -> None:
        """Pass over the lifetimes ``n_epochs`` times, with a step of η for each update of the agents."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        network, agents, n_steps = self.policy.network, env.agents, env.settings.n_steps
        batches = []
        for number, update in enumerate(updates):
            part = slice(number * n_steps, (number + 1) * n_steps)
            inputs = {key: value[part] for key, value in lifetimes.inputs.items()}
            shaped = dense_reward(lifetimes.shaped[part]).to(env.device)
            batches.append((update, inputs, self._outer_minibatch(agents, update, shaped)))
        losses, norms = [], []
        for _epoch in range(self.n_epochs):
            state = network.begin(env.num_envs, self.device)
            for update, inputs, outer in batches:
                outputs = network(inputs, state)
                state = tuple(part.detach() for part in outputs.state)
                advantages = update.advantages(agents, outputs.mean.to(env.device))
                result = advantage_gradient(
                    agents, update, advantages.detach(), outer, self.n_unroll, self.unroll_learning_rate
                )
                gradient = result.gradient / (result.gradient.abs().mean(0) + 1e-12)
                self.policy.optimizer.zero_grad()
                (advantages * gradient).mean().backward()
                norms.append(float(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)))
                self.policy.optimizer.step()
                losses.append(float(result.outer_loss) / env.num_envs)
            self._n_updates += 1
        self.logger.record("train/outer_loss", float(np.mean(losses)))
        self.logger.record("train/gradient_norm", float(np.mean(norms)))
        self.logger.record("train/reward_std", float(lifetimes.agent_rewards.std()))

    def _outer_minibatch(self, agents: InnerAgents, update: InnerUpdate, shaped: Tensor) -> Minibatch:
        """Return the whole batch of an update with the advantages of the task's dense reward ``shaped`` ``[T, B]``."""
        batch, gamma = update.batch, agents.settings.gamma
        observations = torch.cat([batch.observations, update.last_observations[None]])
        values = linear_baseline(observations, _ages(batch.done), shaped, batch.done, gamma)
        advantages = normalized_advantages(shaped, values, batch.done, gamma, self.gae_lambda)
        steps = torch.arange(len(shaped), device=shaped.device).expand(agents.n_agents, -1)
        return agents.minibatch(batch, advantages, None, steps)


def _ages(done: Tensor) -> Tensor:
    """Return the steps since the episode began ``[T + 1, B]``, counted from the batch's beginning for an earlier one."""
    steps = torch.arange(len(done) + 1, device=done.device)[:, None].expand(-1, done.shape[1])
    began = torch.cat([torch.zeros_like(steps[:1]), torch.where(done, steps[1:], 0)])
    return steps - began.cummax(0).values
