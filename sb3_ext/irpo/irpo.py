"""IRPO: Intrinsic Reward Policy Optimization (Cho & Tran, arXiv 2601.21391)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from irwrappers import IntrinsicReward, RunningStd, make_intrinsic_reward
from irwrappers.original import frozen_statistics
from irwrappers.seeding import seeded
from sb3_ext.common.checkpoint import IterationCheckpoint
from sb3_ext.common.normalization import update_statistics
from sb3_ext.common.rollout import Rollout
from sb3_ext.common.trust_region import TrustRegionResult, trust_region_step
from sb3_ext.common.updates import Params, backpropagate_through_updates, global_norm
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.irpo.arguments import check_arguments
from sb3_ext.irpo.batch import EXTRINSIC, INTRINSIC, PolicyBatch, estimate_advantages, make_policy_batch
from sb3_ext.irpo.collection import collect_policies, shared_out
from sb3_ext.irpo.critics import critic_values, update_critics
from sb3_ext.irpo.gradient import Surrogate, SurrogateBatch, exploratory_update, surrogate_gradient
from sb3_ext.irpo.mixture import (
    Blend,
    blended,
    contributions,
    direct_run,
    scaled,
    share_of_direct,
    weighted_sum,
    weights_at,
)
from sb3_ext.irpo.policies import CnnPolicy, IRPOPolicy, MlpPolicy, MultiInputPolicy

SelfIRPO = TypeVar("SelfIRPO", bound="IRPO")


class IRPO(IterationCheckpoint, OnPolicyAlgorithm):
    """Clone the base policy into K exploratory ones, train each N steps on its own intrinsic reward, and move the base
    policy along the extrinsic gradient at their ends, pulled back through those steps.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of :class:`IRPOPolicy`.
        env: an environment, an SB3 ``VecEnv`` or a registered id (then as many copies are made as a batch needs). With K
            dividing the number of copies the K policies explore side by side, otherwise they take turns.
        learning_rate: of the critics (Adam).
        batch_size: B: each collection of each policy goes on until it holds at least B transitions: each of its n copies
            runs whole episodes from reset until it has ⌈B / n⌉ steps. What is collected beyond B is used too.
        n_exploratory_updates: N, intrinsic updates of each exploratory policy. An iteration collects 1 + K·N batches.
        exploratory_learning_rate: α of those updates (plain SGD).
        gamma: extrinsic discount. intrinsic_gamma: intrinsic discount. gae_lambda: λ of both.
        normalize_advantage: to zero mean and unit deviation in each batch.
        bootstrap_truncated: bootstrap episodes cut by a time limit; the paper counts them as terminal.
        n_critic_minibatches: disjoint minibatches of the one pass over each batch that each critic makes.
        ent_coef: entropy bonus of the extrinsic gradient.
        max_grad_norm: clip of every policy gradient (inside the graph) and of the critics'; ``None`` for none.
        surrogate: ``"ratio"``, whose Hessian is that of J up to the terms between different steps of an episode, or the
            authors' ``"log_prob"``, whose lacks those within a step too.
        weighting: of the K pulled-back gradients. ``"softmax"``: ω = softmax(J_R / τ) of this iteration's mean discounted
            returns (the paper); ``"ema"``: the authors' program, softmax then arg-max of an exponential average of step
            rewards with τ falling 1 → 0 over the first ``temperature_decay`` of training after the fit; ``"argmax"``;
            ``"uniform"``.
        temperature: τ of ``"softmax"``, a number or a schedule of the remaining progress. ema_decay: of ``"ema"``.
        base_update: ``"trust_region"`` or ``"sgd"`` with ``base_learning_rate``.
        target_kl: δ of the trust region, a number or a schedule of the remaining progress. cg_max_steps, cg_damping,
            line_search_shrinking_factor, line_search_max_iter: of its conjugate gradients and backtracking.
        deploy: what ``predict`` uses: ``"best_exploratory"``, the exploratory policy with the best return, one step along its
            extrinsic gradient further (with a ``blend`` the base policy, where that did better); or ``"base"``.
        updates_per_batch: intrinsic updates made from each batch of an exploratory policy; those after its first weigh it by
            π/π_old (``surrogate="ratio"``). An iteration then collects 1 + K·⌈N / updates_per_batch⌉ batches.
        exploratory_ent_coef: entropy bonus of the exploratory updates; 0 in the paper.
        carry_over: while nobody has paid the base policy, the exploratory policies begin at θ + carry_over · (where they ended
            before − θ) in place of θ, at one batch more each, and θ moves to the first of them that is paid. 0: the paper.
        blend: of the true gradient into IRPO's: ``None``, ``"abrupt"``, ``"exponential"``, ``"cosine"``, ``"agreement"`` or
            ``"switch"`` (``sb3_ext.irpo.mixture``). blend_start: share of training at which the first has changed over and
            the second is half-way.
        pruning: at each of these shares of training, the half of the channels goes that contributed least since the last time.
        intrinsic_reward: a name (``irwrappers.make_intrinsic_reward``), an instance, or a list of these; K is the number of
            its channels. intrinsic_reward_kwargs: for a name.
        fit_fraction: at most this share of ``total_timesteps`` goes into fitting the intrinsic reward (ALLO's walks).

    The others are SB3's. ``num_timesteps`` counts every environment step, fitting and exploration included. Environments
    and sampling are seeded from (seed, iteration), and ``save`` during an iteration stores its beginning: a run loaded from
    a checkpoint and continued with ``reset_num_timesteps=False`` is the unbroken run.

    Raises:
        ValueError: for an argument out of range, before anything runs, and for NaN from the environment.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: IRPOPolicy
    intrinsic_reward: IntrinsicReward
    intrinsic_std: RunningStd
    _boundary_attributes = (
        *IterationCheckpoint._boundary_attributes,
        "_tracked_returns",
        "_contributions",
        "_carries",
        "_direct_left",
        "_direct_run",
    )

    def __init__(
        self,
        policy: str | type[IRPOPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 5e-5,
        batch_size: int = 8192,
        n_exploratory_updates: int = 5,
        exploratory_learning_rate: float = 0.01,
        gamma: float = 0.99,
        intrinsic_gamma: float = 1.0,
        gae_lambda: float = 0.95,
        normalize_advantage: bool = True,
        bootstrap_truncated: bool = False,
        n_critic_minibatches: int = 5,
        ent_coef: float = 1e-3,
        max_grad_norm: float | None = 0.5,
        surrogate: Surrogate = "ratio",
        weighting: Literal["softmax", "ema", "argmax", "uniform"] = "softmax",
        temperature: float | Schedule = 0.1,
        temperature_decay: float = 0.1,
        ema_decay: float = 0.9995,
        base_update: Literal["trust_region", "sgd"] = "trust_region",
        base_learning_rate: float = 1e-3,
        target_kl: float | Schedule = 1e-3,
        cg_max_steps: int = 10,
        cg_damping: float = 0.1,
        line_search_shrinking_factor: float = 0.7,
        line_search_max_iter: int = 15,
        deploy: Literal["best_exploratory", "base"] = "best_exploratory",
        intrinsic_reward: str | IntrinsicReward | list[Any] = "allo",
        intrinsic_reward_kwargs: dict[str, Any] | None = None,
        fit_fraction: float = 0.1,
        updates_per_batch: int = 1,
        exploratory_ent_coef: float = 0.0,
        carry_over: float = 0.0,
        blend: Blend | None = None,
        blend_start: float = 0.5,
        pruning: Sequence[float] = (),
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.batch_size = batch_size
        self.n_exploratory_updates = n_exploratory_updates
        self.exploratory_learning_rate = exploratory_learning_rate
        self.intrinsic_gamma = intrinsic_gamma
        self.normalize_advantage = normalize_advantage
        self.bootstrap_truncated = bootstrap_truncated
        self.n_critic_minibatches = n_critic_minibatches
        self.surrogate = surrogate
        self.weighting = weighting
        self.temperature = temperature
        self.temperature_decay = temperature_decay
        self.ema_decay = ema_decay
        self.base_update = base_update
        self.base_learning_rate = base_learning_rate
        self.target_kl = target_kl
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        self.deploy = deploy
        self.intrinsic_reward_spec = intrinsic_reward
        self.intrinsic_reward_kwargs = intrinsic_reward_kwargs or {}
        self.fit_fraction = fit_fraction
        self.updates_per_batch = updates_per_batch
        self.exploratory_ent_coef = exploratory_ent_coef
        self.carry_over = carry_over
        self.blend = blend
        self.blend_start = blend_start
        self.pruning = tuple(pruning)
        self._channels: list[int] | None = None  # those that prunings left; None: all
        check_arguments(self, learning_rate, gamma, gae_lambda, ent_coef, max_grad_norm)
        if isinstance(env, str):
            env = self._make_default_env(env)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            n_steps=0,  # rollouts are whole episodes, held in a Rollout
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=0.0,
            max_grad_norm=max_grad_norm,  # type: ignore[arg-type]
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        self._iteration = 0
        self._base_seed = seed if seed is not None else int(np.random.randint(2**31 - 1))
        self._tracked_returns = np.zeros(0)  # EMA of the mean step reward, one for each exploratory policy
        self._contributions = np.zeros(0)  # of each channel to the base policy's gradient, since the last pruning
        self._n_prunings = 0
        self._fit_share = 0.0  # of training, which went into fitting the intrinsic reward
        self._carries = False  # whether the next exploratory policies begin where the last ones ended
        self._direct_left = self._direct_run = 0  # iterations on the true gradient still to come, and when they were ordered
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ set-up

    def _make_default_env(self, env_id: str) -> GymEnv:
        """Enough copies that each of the K policies holds a batch after one episode of full length each."""
        probe = gym.make(env_id)
        horizon = probe.spec.max_episode_steps if probe.spec is not None else None
        n_policies = self._make_intrinsic_reward(probe.observation_space, probe.action_space).n_rewards
        native = probe.spec is not None and probe.spec.vector_entry_point is not None
        probe.close()
        copies = math.ceil(self.batch_size / horizon) if horizon and native else 1
        return make_vec_env(env_id, n_envs=n_policies * min(copies, 256))

    def _make_intrinsic_reward(self, observation_space: spaces.Space, action_space: spaces.Space) -> IntrinsicReward:
        reward = make_intrinsic_reward(
            self.intrinsic_reward_spec, observation_space, action_space, **self.intrinsic_reward_kwargs
        )
        return reward if self._channels is None else reward.only(self._channels)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.intrinsic_reward = self._make_intrinsic_reward(self.observation_space, self.action_space).to(self.device)
        self.intrinsic_std = RunningStd(self.n_exploratory).to(self.device)
        if not issubclass(self.policy_class, IRPOPolicy):
            raise ValueError(f"IRPO needs a policy derived from sb3_ext.irpo.IRPOPolicy, got {self.policy_class.__name__}.")
        self.policy = self.policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            n_exploratory=self.n_exploratory,
            **self.policy_kwargs,
        ).to(self.device)
        self.policy.set_training_mode(False)
        if len(self._tracked_returns) != self.n_exploratory:
            self._tracked_returns = np.zeros(self.n_exploratory)
        if len(self._contributions) != self.n_exploratory:
            self._contributions = np.zeros(self.n_exploratory)
        self._maybe_recommend_cpu("IRPOPolicy")

    @property
    def n_exploratory(self) -> int:
        """K, the number of exploratory policies: one for each channel of the intrinsic reward."""
        return self.intrinsic_reward.n_rewards

    @property
    def _progress(self) -> float:
        """Share of training done, 0 to 1."""
        return 1 - self._current_progress_remaining

    def _now(self, setting: float | Schedule) -> float:
        return setting(self._current_progress_remaining) if callable(setting) else setting

    def _fit_intrinsic_reward(self, total_timesteps: int, progress_bar: bool) -> None:
        if not self.intrinsic_reward.needs_fit:
            return
        assert self.env is not None
        budget = int(self.fit_fraction * (total_timesteps - self.num_timesteps))
        if self.verbose >= 1:
            print(f"Fitting the intrinsic reward {type(self.intrinsic_reward).__name__} on at most {budget} steps")
        try:
            steps = self.intrinsic_reward.fit(self.env, budget, seed=self._base_seed, progress_bar=progress_bar)
        except ValueError as error:
            error.add_note(f"learn({total_timesteps}) with fit_fraction={self.fit_fraction} gives fit() {budget} steps.")
            raise
        self.num_timesteps += steps
        self._fit_share = self.num_timesteps / total_timesteps
        self.intrinsic_reward.to(self.device)

    # ------------------------------------------------------------------ learning

    def learn(
        self: SelfIRPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "IRPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfIRPO:
        with frozen_statistics(self._vec_normalize_env):  # its reset must not count twice in a run that is continued
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
        self._fit_intrinsic_reward(total_timesteps, progress_bar or self.verbose >= 1)
        callback.on_training_start(locals(), globals())
        iteration = 0
        while self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            due = self._n_prunings < len(self.pruning) and self._progress >= self.pruning[self._n_prunings]
            if due and self._contributions.any():  # while nobody was paid all channels are alike
                self._prune()
            self._boundary = self._snapshot()
            try:
                rollouts = self._run_iteration(callback)
            except BaseException:
                # Interrupted: as if this iteration had not begun, so that what is saved now resumes exactly.
                self._restore(self._boundary)
                self._boundary = None
                raise
            if rollouts is None:
                steps = self.num_timesteps
                self._restore(self._boundary)
                self.num_timesteps = steps  # a callback's stop: the steps were taken
                break
            update_statistics(self._vec_normalize_env, rollouts)
            self._boundary = None
            iteration += 1
            if log_interval is not None and iteration % log_interval == 0:
                self.dump_logs(iteration)
        self._boundary = None
        callback.on_training_end()
        return self

    def _run_iteration(self, callback: BaseCallback) -> list[Rollout] | None:
        """One base update (Algorithm 1 of the paper) and the rollouts it took; ``None`` when a callback stopped it."""
        assert self.env is not None
        seed = int(np.random.SeedSequence([self._base_seed, self._iteration]).generate_state(1)[0])
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._reward_seeds = np.random.default_rng(seed)
        self.env.seed(seed)
        self._update_learning_rate(self.policy.optimizer)
        callback.on_rollout_start()

        theta = {name: value.clone() for name, value in self.policy.base.as_dict().items()}
        rollouts: list[Rollout] = []
        base = self._collect({name: value[None] for name, value in theta.items()}, rollouts, callback)
        if base is None or not (self._explore if self._explores() else self._follow_direct)(theta, base, rollouts, callback):
            return None
        self._iteration += 1
        self._n_updates += 1
        return rollouts

    def _explores(self) -> bool:
        """Whether this iteration sends out exploratory policies; a ``blend`` may have changed over to the true gradient."""
        if self.blend == "abrupt":
            return self._progress < self.blend_start
        return self._direct_left == 0

    def _follow_direct(self, theta: Params, base: PolicyBatch, rollouts: list[Rollout], callback: BaseCallback) -> bool:
        """An iteration on the true gradient of the base policy alone."""
        advantages, _ = self._evaluate(base)
        callback.update_locals(locals())
        callback.on_rollout_end()
        step = self._update_base(theta, self._direct_gradients(theta, base, advantages[EXTRINSIC])[0], base)
        self.policy.base.assign(step.params)
        self.policy.deploy(step.params, {name: value[EXTRINSIC, 0] for name, value in self.policy.critics.as_dict().items()})
        self._direct_left = max(0, self._direct_left - 1)
        self._log_base(theta, base, step)
        return True

    def _explore(self, theta: Params, base: PolicyBatch, rollouts: list[Rollout], callback: BaseCallback) -> bool:
        """Send out the exploratory policies and move the base policy along what they bring back; False: stopped."""
        thetas, batch, paid_for = self._copies(theta), base, None
        if self._carries:
            ended = self.policy.exploratory.as_dict()
            thetas = {name: value + self.carry_over * (ended[name] - value) for name, value in thetas.items()}
            collected = self._collect(thetas, rollouts, callback)
            if collected is None:
                return False
            batch = collected
        inputs: list[Params] = []
        surrogates: list[SurrogateBatch] = []
        for j in range(self.n_exploratory_updates):
            if j % self.updates_per_batch == 0:
                advantages, intrinsic_return = self._evaluate(batch)
                paid_for = advantages[EXTRINSIC] if batch is base else paid_for
            inputs.append(thetas)
            surrogates.append(batch.surrogate(advantages[INTRINSIC]))
            thetas = self._exploratory_updates(surrogates[-1])(thetas)
            if (j + 1) % self.updates_per_batch == 0 or j + 1 == self.n_exploratory_updates:
                collected = self._collect(thetas, rollouts, callback)
                if collected is None:
                    return False
                batch = collected
        advantages, intrinsic_return = self._evaluate(batch)
        callback.update_locals(locals())
        callback.on_rollout_end()

        # The extrinsic gradient at the end of exploration; none where nothing was paid, for normalised noise is O(1).
        rewarded = batch.rewarded()
        extrinsic = vmap(partial(self._surrogate_gradient, ent_coef=self.ent_coef))(
            thetas, batch.surrogate(advantages[EXTRINSIC])
        )
        extrinsic = scaled(rewarded.to(intrinsic_return.dtype), extrinsic)
        raw = vmap(partial(self._surrogate_gradient, max_grad_norm=None))(
            thetas, batch.surrogate(batch.returns_to_go(self.gamma))
        )
        updates = [self._exploratory_updates(surrogate) for surrogate in surrogates]
        pulled_back, raw_pulled_back = backpropagate_through_updates(updates, inputs, extrinsic, raw)

        returns = batch.mean_episode_return(batch.per_policy(batch.rollout.rewards), self.gamma)
        weights, temperature = self._weights(returns)
        self._contributions = self._contributions + contributions(weights, pulled_back).cpu().numpy()
        found = self.carry_over > 0 and not bool(base.rewarded().any())
        if found and bool(rewarded.any()):
            step = self._move_base_to(theta, {name: value[returns.argmax()] for name, value in thetas.items()}, base)
        else:
            gradient = weighted_sum(weights, pulled_back)
            if self.blend is not None and paid_for is not None:
                gradient = self._blend_in(theta, gradient, base, paid_for)
            step = self._update_base(theta, gradient, base)
        self._carries = found and not bool(rewarded.any())
        base_return = self._log_base(theta, base, step)
        base_is_best = self.blend is not None and base_return > float(returns.max())
        self._deploy(step.params, thetas, extrinsic, returns, self.deploy == "base" or base_is_best)
        if self.blend == "switch":
            self._direct_left = self._direct_run = direct_run(self._direct_run, base_return, float(returns.max()))
        self._log_exploration(
            returns, intrinsic_return, weights, temperature, global_norm(weighted_sum(weights, raw_pulled_back))
        )
        return True

    def _blend_in(self, theta: Params, gradient: Params, base: PolicyBatch, advantages: Tensor) -> Params:
        assert self.blend is not None
        direct, halves = self._direct_gradients(theta, base, advantages)
        share = share_of_direct(self.blend, self._progress, self.blend_start, gradient, direct, halves)
        self.logger.record("train/direct_share", share)
        return blended(gradient, direct, share)

    def _direct_gradients(self, theta: Params, base: PolicyBatch, advantages: Tensor) -> tuple[Params, tuple[Params, Params]]:
        """The true gradient from the base policy's batch, and those of the two halves of its copies.

        Args:
            advantages: ``[K, M]`` by the K extrinsic critics (their mean where all saw all); nothing paid: no gradient.
        """
        whole, paid = base.as_one_policy(), float(base.rewarded().any())
        mean = base.merged(advantages) * paid
        copies = base.rollout.valid.shape[1]
        second = (torch.arange(copies, device=mean.device) % 2).expand(len(base.rollout.valid), copies).flatten()
        parts = torch.stack([mean, 2 * mean * (1 - second), 2 * mean * second])
        gradients = []
        for part, ent_coef in zip(parts, (self.ent_coef, 0.0, 0.0), strict=True):
            batch = SurrogateBatch(*tree_map(lambda x: x[0], tuple(whole.surrogate(part))))
            gradients.append(self._surrogate_gradient(theta, batch, ent_coef=ent_coef * paid))
        return gradients[0], (gradients[1], gradients[2])

    def _prune(self) -> None:
        """Drop the half of the channels that contributed least to the base policy's gradient since the last pruning."""
        order = np.argsort(-self._contributions, kind="stable")
        keep = sorted(int(k) for k in order[: max(1, math.ceil(self.n_exploratory / 2))])
        self._n_prunings += 1
        self._channels = keep if self._channels is None else [self._channels[k] for k in keep]
        self.intrinsic_reward = self.intrinsic_reward.only(keep)
        self.intrinsic_std = self.intrinsic_std.only(keep)
        self.policy.keep_exploratory(keep)
        self._tracked_returns, self._contributions = self._tracked_returns[keep], np.zeros(len(keep))

    # ------------------------------------------------------------------ pieces of an iteration

    def _collect(self, params: Params, rollouts: list[Rollout], callback: BaseCallback) -> PolicyBatch | None:
        """A batch of each policy in ``params`` ``[P, ...]``, whose rollout is appended to ``rollouts``; ``None``: stopped.

        P is K, or 1 for the base policy: each of the K then learns from its own share of the copies where these hold half a
        batch, otherwise from all of them.
        """
        assert self.env is not None
        on_step = partial(self._on_step, callback)
        rollout = collect_policies(self.env, self.policy, params, on_step, self.batch_size, self._generator)
        if rollout is None:
            return None
        rollouts.append(rollout)
        if len(next(iter(params.values()))) == self.n_exploratory:
            return make_policy_batch(rollout, self.policy, params)
        rollout = shared_out(rollout, self.n_exploratory, self.batch_size)
        return make_policy_batch(rollout, self.policy, self._copies({n: v[0] for n, v in params.items()}))

    def _on_step(self, callback: BaseCallback, step: dict[str, Any]) -> bool:
        """Count a step of all copies and tell the callback; False: it wants to stop."""
        assert self.env is not None
        self.num_timesteps += self.env.num_envs
        callback.update_locals(step)
        if not callback.on_step():
            return False
        ended = np.flatnonzero(step["dones"])
        self._update_info_buffer([step["infos"][i] for i in ended], step["dones"][ended])
        return True

    def _evaluate(self, batch: PolicyBatch) -> tuple[Tensor, Tensor]:
        """Advantages ``[2, K, M]`` (taken before the critics and the reward learn from the batch) and each policy's mean
        intrinsic return ``[K]``."""
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
        if self.bootstrap_truncated:
            next_rollout = copy.copy(rollout)
            next_rollout.observations = rollout.next_observations
            next_states = make_policy_batch(next_rollout, self.policy, self._copies(self.policy.base.as_dict())).states
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
            self.n_critic_minibatches,
            self.max_grad_norm,
            self._generator,
        )
        self.logger.record_mean("train/value_loss", value_loss)
        step_reward = (batch.flat(batch.per_policy(rollout.rewards)) * batch.valid).sum(1) / batch.valid.sum(1)
        self._tracked_returns = self.ema_decay * self._tracked_returns + (1 - self.ema_decay) * step_reward.cpu().numpy()
        return advantages.normalized, batch.mean_episode_return(rewards, self.intrinsic_gamma)

    def _copies(self, params: Params) -> Params:
        """K copies, ``[K, ...]``."""
        return {name: value.expand(self.n_exploratory, *value.shape).clone() for name, value in params.items()}

    def _own_channels(self, rewards: Tensor, n_policies: int) -> Tensor:
        """``[T, E, K]`` → ``[T, K, n]``: channel k on the copies of policy k, or every channel on those of the base policy."""
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
            surrogate=self.surrogate,
            ent_coef=ent_coef,
        )

    def _exploratory_updates(self, surrogate: SurrogateBatch) -> Any:
        """θ̃ → θ̃ + α clip(∇J_R̃) of all K policies, ``[K, ...]`` → ``[K, ...]``."""
        update = partial(
            exploratory_update,
            learning_rate=self.exploratory_learning_rate,
            max_grad_norm=self.max_grad_norm,
            actor=self.policy.actor,
            distribution=self.policy.distribution,
            surrogate=self.surrogate,
            ent_coef=self.exploratory_ent_coef,
        )
        return lambda params: vmap(update)(params, surrogate)

    def _weights(self, returns: Tensor) -> tuple[Tensor, float]:
        """ω ``[K]`` and the temperature it was taken at."""
        temperature = 0.0
        if self.weighting == "softmax":
            temperature = self._now(self.temperature)
        elif self.weighting == "ema":
            explored = (self._progress - self._fit_share) / max(1 - self._fit_share, 1e-9)
            temperature = 1 - max(explored, 0) / self.temperature_decay  # a second learn() needs no fit
            returns = torch.as_tensor(self._tracked_returns, dtype=returns.dtype, device=returns.device)
        elif self.weighting == "uniform":
            temperature = math.inf
        return weights_at(returns, temperature), max(temperature, 0.0)

    def _base_kl(self, theta: Params, base: PolicyBatch) -> Callable[[Params], Tensor]:
        """The mean KL divergence of the policy θ from another, over the base policy's batch."""
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
        return TrustRegionResult(params, float(self._base_kl(theta, base)(params)), 0, True)

    def _update_base(self, theta: Params, gradient: Params, base: PolicyBatch) -> TrustRegionResult:
        """θ after a trust-region (or plain) step along the ascent direction ``gradient``; KL over the base policy's batch."""
        if self.base_update == "sgd":
            params = {name: value + self.base_learning_rate * gradient[name] for name, value in theta.items()}
            return self._move_base_to(theta, params, base)
        return trust_region_step(
            theta,
            gradient,
            self._base_kl(theta, base),
            self._now(self.target_kl),
            cg_max_steps=self.cg_max_steps,
            cg_damping=self.cg_damping,
            shrinking_factor=self.line_search_shrinking_factor,
            max_backtracks=self.line_search_max_iter,
        )

    @torch.no_grad()
    def _deploy(self, theta: Params, thetas: Params, extrinsic: Params, returns: Tensor, base: bool) -> None:
        """Store θ and the exploratory policies after their extrinsic step; the base one or the best of these is to act."""
        after = {name: value + self.exploratory_learning_rate * extrinsic[name] for name, value in thetas.items()}
        self.policy.base.assign(theta)
        self.policy.exploratory.assign(after)
        tracked = torch.as_tensor(self._tracked_returns) if self.weighting == "ema" else returns
        best = int(tracked.argmax())
        actor = theta if base else {name: value[best] for name, value in after.items()}
        self.policy.deploy(actor, {name: value[EXTRINSIC, best] for name, value in self.policy.critics.as_dict().items()})

    # ------------------------------------------------------------------ logs, checks

    def _log_base(self, theta: Params, base: PolicyBatch, step: TrustRegionResult) -> float:
        """Record the base policy before and in its step; returns its mean discounted return."""
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

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "intrinsic_reward", "intrinsic_std"], []

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_generator", "_reward_seeds"]
