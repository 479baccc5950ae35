"""CLN: PPO on a learned reward, with a policy that sees the reward's parameters (Zhang, Stadie & Ba)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from irwrappers.validation import check_choice, check_range
from sb3_ext.cln.policies import CLNPolicy, CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.cln.segments import SegmentBuffer, Segments, cut_into_segments, segment_loss
from sb3_ext.common import ppo_losses
from sb3_ext.common.gae import discounted_sum
from sb3_ext.common.meta_gradient import InnerLoss, MetaGradient, Term, meta_gradient
from sb3_ext.common.optimizers import SGD, Params, State, optimizer_from
from sb3_ext.common.reward_network import RewardNetwork
from sb3_ext.lirpg.policies import ExtrinsicCritic, FunctionalModule
from sb3_ext.lirpg.rollout import ExtrinsicRecorder, LearnedRewardRollout, Samples, make_rollout

SelfCLN = TypeVar("SelfCLN", bound="CLN")

DIRECT: tuple[Term, ...] = ("direct",)
CHUNK = 4096  # rows of a rollout that the reward network takes at a time
Logs = dict[str, list[Tensor]]


class CLN(PPO):
    """PPO on J^IN, the return of a learned reward r_φ(s, a; η); η, the reward's last layer, follows the extrinsic return J^EX.

    One iteration:

    1. a rollout with π(·|s, η + ε);
    2. ``n_reward_steps`` (N_r) minibatch steps of the reward network, η ← Adam(λ g_J + c g_reg), the rest φ ← Adam(c g_reg),
       where g_J is the chosen ``terms`` of dJ^EX/dη and g_reg the gradient of (Σ r_ex − Σ r_φ)², the mean over segments of all
       transitions collected so far;
    3. ``n_epochs`` passes in minibatches (the paper's N_p) of PPO on J^IN(θ, η + ε′).

    J^EX is PPO's clipped surrogate with the normalised advantages of the environment's reward (that of its ``VecNormalize``),
    from a critic of its own. The policy sees η by conditional layer normalisation, so the direct term, E[Σ ∂log π/∂η Â^EX],
    goes through no update of the policy; the others go through one differentiable step of its optimiser.

    ε is drawn for each copy and rollout, ε′ for each transition and step. A transition is paid with the η that its policy
    sees: advantages are linear in η, Â(η + ε) = Â(η) + F ε, with F the discounted sums of what the last layer takes. So the
    policy learns the best response in a neighbourhood of η.

    While the environment has never paid anything but 0, J^EX is 0 and g_J is left out: it would be its critic's error alone.

    Args:
        terms: of dJ^EX/dη, some of ``"direct"``, ``"mixed"``, ``"reward"``. With the last two every reward step evaluates the
            reward network on the whole rollout.
        n_reward_steps: N_r, 0 leaves the reward as it was drawn. n_epochs: N_p, as in PPO.
        reward_learning_rate: of the reward network's Adam; may be a schedule.
        meta_coef: λ. regularizer_coef: c. Adam makes only their ratio matter.
        segment_length: steps in a segment, which ends with its episode; where rewards are delayed, as many as between two.
        segment_buffer_size: transitions kept in D_r, a uniform sample of all (reservoir sampling); a saved model holds them.
        segments_per_step: drawn for each reward step.
        eta_noise: deviation of ε and ε′.
        conditioning: the ``"last"`` hidden layer of the actor or ``"all"``. conditioner_arch: hidden layers before its two
            affine maps. film: no normalisation in it.
        r_ex_coef, r_in_coef: the policy is paid r_ex_coef · r_ex + r_in_coef · r_φ.
        reward_kwargs: arguments of :class:`~sb3_ext.common.reward_network.RewardNetwork`; it sees what the policy sees, and
            Box actions clipped. It is not squashed: r_φ is linear in η.

    The others are SB3's. ``cln/…`` has both returns of the rollout's finished episodes, the regulariser, the mean gate, the
    norm of g_J (from the first pay on) and the change of the policy by the reward steps (KL).

    Raises:
        ValueError: for an argument out of range, and for rewards that are NaN or infinite.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: CLNPolicy
    segments: SegmentBuffer
    extrinsic_critic: ExtrinsicCritic
    _recorder: ExtrinsicRecorder
    _paid = False  # whether the environment has ever paid anything but 0

    def __init__(
        self,
        policy: str | type[CLNPolicy],
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
        terms: Collection[Term] = DIRECT,
        n_reward_steps: int = 64,
        reward_learning_rate: float | Schedule = 1e-3,
        meta_coef: float = 1.0,
        regularizer_coef: float = 1.0,
        segment_length: int = 4,
        segment_buffer_size: int = 100_000,
        segments_per_step: int = 64,
        eta_noise: float = 0.01,
        conditioning: str = "last",
        conditioner_arch: Sequence[int] = (),
        film: bool = False,
        r_ex_coef: float = 0.0,
        r_in_coef: float = 1.0,
        reward_kwargs: dict[str, Any] | None = None,
    ) -> None:
        for term in terms:
            check_choice("each of terms", term, ("direct", "mixed", "reward"))
        check_range("n_reward_steps", n_reward_steps, 0, integer=True)
        check_range("reward_learning_rate", reward_learning_rate, 0)
        for name, value in (("meta_coef", meta_coef), ("regularizer_coef", regularizer_coef), ("eta_noise", eta_noise)):
            check_range(name, value, 0)
        for name, value in (("segment_length", segment_length), ("segments_per_step", segments_per_step)):
            check_range(name, value, 1, integer=True)
        check_range("segment_buffer_size", segment_buffer_size, segment_length, integer=True)
        check_choice("conditioning", conditioning, ("last", "all"))
        if not isinstance(conditioner_arch, Sequence):
            raise ValueError(f"conditioner_arch must be a list of layer sizes, got {conditioner_arch!r}.")
        if not isinstance(reward_kwargs, dict | None) or "squash" in (reward_kwargs or {}):
            raise ValueError(
                f"reward_kwargs must be None or a dict of RewardNetwork's arguments but squash, got {reward_kwargs!r}."
            )
        check_range("r_ex_coef", r_ex_coef, 0)
        check_range("r_in_coef", r_in_coef, 0)
        if r_ex_coef == r_in_coef == 0:
            raise ValueError("r_ex_coef and r_in_coef are both 0: the policy would learn from nothing.")
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
            _init_setup_model=False,
        )
        self.terms = tuple(terms)
        self.n_reward_steps = n_reward_steps
        self.reward_learning_rate = reward_learning_rate
        self.meta_coef = meta_coef
        self.regularizer_coef = regularizer_coef
        self.segment_length = segment_length
        self.segment_buffer_size = segment_buffer_size
        self.segments_per_step = segments_per_step
        self.eta_noise = eta_noise
        self.r_ex_coef = r_ex_coef
        self.r_in_coef = r_in_coef
        self._cln_policy_kwargs = dict(
            conditioning=conditioning, conditioner_arch=tuple(conditioner_arch), film=film, reward_kwargs=reward_kwargs
        )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, CLNPolicy):
            raise ValueError(f"CLN needs a policy derived from sb3_ext.cln.CLNPolicy, got {self.policy_class.__name__}.")
        twice = self._cln_policy_kwargs.keys() & self.policy_kwargs.keys()
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: give them to CLN itself, not in policy_kwargs.")
        self.policy_kwargs, given = self.policy_kwargs | self._cln_policy_kwargs, self.policy_kwargs
        super()._setup_model()
        self.policy_kwargs = given
        self._reward_lr_schedule = FloatSchedule(self.reward_learning_rate)
        self.extrinsic_critic = ExtrinsicCritic(self.policy).to(self.device)
        self.extrinsic_optimizer = torch.optim.Adam(self.extrinsic_critic.parameters(), lr=self.lr_schedule(1), eps=1e-5)
        self.reward_optimizer = torch.optim.Adam(self.reward_network.parameters(), lr=self._reward_lr_schedule(1), eps=1e-5)
        self.segments = SegmentBuffer(self.segment_buffer_size, self.segment_length, self.device)
        self._at_theta = FunctionalModule(self.policy)
        self._episode_returns = np.zeros((2, self.n_envs))  # extrinsic and intrinsic, of the episodes that go on
        if self._updates_policy:
            optimizer_from(self.policy.optimizer, self.policy.actor_parameters())  # that it can be differentiated

    @property
    def reward_network(self) -> RewardNetwork:
        """r_φ; it belongs to the policy, whose actor sees its last layer."""
        return self.policy.reward_network

    @property
    def _updates_policy(self) -> bool:
        """Whether a chosen term goes through an update of the policy."""
        return not set(self.terms) <= {"direct"}

    # ------------------------------------------------------------------ rollouts

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:
            self._episode_returns, self._ages = np.zeros((2, self.n_envs)), np.zeros(self.n_envs, dtype=int)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        # SB3 computes GAE of what the recorder passes on, r_ex_coef · r_ex, with the policy's critic; r_φ is added by train().
        self._recorder = ExtrinsicRecorder(env, self.r_ex_coef)
        self._recorder.keep_originals(self._last_obs)
        self.policy.collection_noise = self._noise(env.num_envs)
        try:
            return super().collect_rollouts(self._recorder, callback, rollout_buffer, n_rollout_steps)
        finally:
            self.policy.collection_noise = None

    def _noise(self, n: int) -> Tensor:
        """ε ``[n, n_condition]``."""
        return self.eta_noise * torch.randn((n, len(self.policy.eta())), device=self.device, dtype=self.policy.eta().dtype)

    def _rollout(self) -> tuple[LearnedRewardRollout, Tensor]:
        """The rollout just collected, n = B · T transitions copy by copy, and actions as the environment took them."""
        assert self._last_episode_starts is not None
        rollout = make_rollout(
            self.rollout_buffer,
            self._recorder,
            self._last_obs,
            self._last_episode_starts,
            lambda observations: self.policy.obs_to_tensor(observations)[0],
            self.extrinsic_critic,
            CHUNK,
        )
        return rollout, self._taken(rollout.samples.actions)

    def _rewards_and_ends(self) -> tuple[Tensor, Tensor]:
        """Extrinsic rewards and where an episode ended, ``[B, T]``."""
        rewards = self._recorder.stacked()
        assert self._last_episode_starts is not None
        done = np.concatenate([self.rollout_buffer.episode_starts[1:], self._last_episode_starts[None]]) > 0
        return torch.as_tensor(rewards.T, device=self.device), torch.as_tensor(done.T, device=self.device)

    def _taken(self, actions: Tensor) -> Tensor:
        """Box actions clipped, as the environment takes them."""
        if not isinstance(self.action_space, spaces.Box) or self.policy.squash_output:
            return actions
        low, high = (torch.as_tensor(x, device=self.device) for x in (self.action_space.low, self.action_space.high))
        return torch.clamp(actions.view(-1, *low.shape), low, high).view(actions.shape)

    # ------------------------------------------------------------------ the reward

    def intrinsic_rewards(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """r_φ(s, a; η) ``[n]`` of observations ``[n, …]`` as the policy sees them and actions as it draws them."""
        observations = self.policy.obs_to_tensor(observations)[0]
        with torch.no_grad():
            return self.reward_network(observations, self._taken(torch.as_tensor(actions, device=self.device))).cpu().numpy()

    @torch.no_grad()
    def _reward_features(self, rollout: LearnedRewardRollout, taken: Tensor) -> tuple[Tensor, Tensor]:
        """x and F ``[n, n_condition]``: r_φ = x · η, and Â^IN = (Â of r_ex_coef · r_ex) + F · η."""
        rows = [slice(start, start + CHUNK) for start in range(0, len(taken), CHUNK)]
        observations = rollout.samples.observations
        parts = [self.reward_network.head_inputs(tree_map(lambda o, at=at: o[at], observations), taken[at]) for at in rows]
        x = torch.cat(parts)
        n_steps, n_copies = rollout.discount.shape
        x_by_time = x.view(n_copies, n_steps, -1).transpose(0, 1)
        sums = discounted_sum(x_by_time, rollout.discount[..., None].expand_as(x_by_time))
        return x, self.r_in_coef * sums.transpose(0, 1).flatten(0, 1)

    def _collect_segments(self, actions: Tensor, rewards: Tensor, done: Tensor, observations: Any) -> None:
        """Into D_r, all ``[B, T, …]``. What a ``VecNormalize`` was given is kept, as SB3's replay buffers keep it."""
        if self._recorder.original_observations:

            def stacked(*steps: np.ndarray) -> Tensor:
                column = torch.as_tensor(np.stack(steps, 1), device=self.device)
                return column.float() if column.is_floating_point() else column

            observations = tree_map(stacked, *self._recorder.original_observations[:-1])
            rewards = stacked(*self._recorder.original_rewards)
        age = torch.as_tensor(self._ages, device=self.device)
        self.segments.add(cut_into_segments(observations, actions, rewards.float(), done, self.segment_length, age))

    def _sample_segments(self) -> Segments:
        """Of D_r, under the present statistics of a ``VecNormalize``: under those of their time one transition would have
        been seen and paid in many ways."""
        segments, normalize = self.segments.sample(self.segments_per_step), self._vec_normalize_env
        if normalize is None:
            return segments
        observations = normalize.normalize_obs(tree_map(lambda values: values.cpu().numpy(), segments.observations))
        rewards = normalize.normalize_reward(segments.rewards.cpu().numpy())
        observations, rewards = tree_map(lambda values: torch.as_tensor(values, device=self.device), (observations, rewards))
        return segments._replace(observations=observations, rewards=rewards)

    def _reward_steps(self, rollout: LearnedRewardRollout, taken: Tensor, clip_range: float, logs: Logs) -> None:
        """N_r steps: η ← Adam(λ g_J + c g_reg), φ ← Adam(c g_reg)."""
        head = self.reward_network.head
        for rows in islice(_endless(rollout, self.batch_size), self.n_reward_steps):
            segments = self._sample_segments()
            steps = tree_map(lambda values: values.flatten(0, 1), (segments.observations, segments.actions))
            loss = segment_loss(self.reward_network(*steps).view(segments.mask.shape), segments)
            self.reward_optimizer.zero_grad()
            (self.regularizer_coef * loss).backward()
            if self._paid:  # before, J^EX is 0, and an estimate of its gradient the error of its critic
                features = self._reward_features(rollout, taken)[1][rows] if self._updates_policy else None
                meta = self._eta_gradient(rollout.samples.rows(rows), features, self._noise(len(rows)), clip_range)
                gradient = meta.gradient["eta"]
                head.weight.grad.add_(gradient[: head.weight.numel()].view_as(head.weight), alpha=self.meta_coef)  # type: ignore[union-attr]
                head.bias.grad.add_(gradient[head.weight.numel() :], alpha=self.meta_coef)  # type: ignore[union-attr]
                logs["cln/meta_gradient_norm"].append(gradient.norm())
            self.reward_optimizer.step()
            logs["cln/regularizer_loss"].append(loss.detach())

    def _eta_gradient(self, samples: Samples, features: Tensor | None, noise: Tensor, clip_range: float) -> MetaGradient:
        """g_J, the chosen terms of −dJ^EX/dη on a minibatch.

        Args:
            features: F ``[n, n_condition]`` of its transitions, for the terms that go through an update. noise: ε, as F.
        """
        extrinsic = self._normalized(samples.extrinsic_advantages)

        def evaluate(theta: Params, eta: Tensor) -> tuple[Tensor, Tensor | None]:
            return self._at_theta.at(theta, "evaluate_actor", samples.observations, samples.actions, eta + noise)

        def outer(theta: Params, acting: Params) -> Tensor:
            log_prob, _ = evaluate(theta, acting["eta"])
            return ppo_losses.policy_loss(torch.exp(log_prob - samples.old_log_prob), extrinsic, clip_range)

        def inner(theta: Params, seen: Params, paying: Params) -> Tensor:
            assert features is not None
            advantages = samples.advantages + _linear(features, features.mean(0), paying["eta"], noise)
            log_prob, entropy = evaluate(theta, seen["eta"])
            loss = ppo_losses.policy_loss(torch.exp(log_prob - samples.old_log_prob), self._normalized(advantages), clip_range)
            return loss + self.ent_coef * ppo_losses.entropy_loss(log_prob, entropy)

        theta: Params = {}
        inner_losses: list[InnerLoss] = []
        optimizer: Any = SGD(0.0)
        state: State = {}
        if self._updates_policy:
            theta, inner_losses = dict(self.policy.actor_parameters()), [inner]
            optimizer, state = optimizer_from(self.policy.optimizer, theta)
        eta = {"eta": self.policy.eta()}
        return meta_gradient(
            theta, eta, inner_losses, outer, optimizer, state, terms=self.terms, max_grad_norm=self.max_grad_norm
        )

    def _normalized(self, advantages: Tensor) -> Tensor:
        return ppo_losses.normalized(advantages) if self.normalize_advantage else advantages

    # ------------------------------------------------------------------ training

    def train(self) -> None:
        """Reward steps, then PPO's update on what the reward pays now."""
        self.policy.set_training_mode(True)
        progress = self._current_progress_remaining
        self._update_learning_rate([self.policy.optimizer, self.extrinsic_optimizer])
        update_learning_rate(self.reward_optimizer, self._reward_lr_schedule(progress))
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        clip_range_vf = None if self.clip_range_vf is None else self.clip_range_vf(progress)  # type: ignore[operator]

        rollout, taken = self._rollout()
        extrinsic_rewards, done = self._rewards_and_ends()
        self._paid = self._paid or bool(extrinsic_rewards.any())
        observations, actions = tree_map(
            lambda values: values.unflatten(0, extrinsic_rewards.shape), (rollout.samples.observations, taken)
        )
        self._collect_segments(actions, extrinsic_rewards, done, observations)
        since = done.flip(1).int().argmax(1).cpu().numpy()  # steps after the last end
        self._ages = np.where(done.any(1).cpu().numpy(), since, self._ages + done.shape[1])
        logs: Logs = defaultdict(list)
        self._reward_steps(rollout, taken, clip_range, logs)
        self._log_change_of_policy(rollout)
        x, features = self._reward_features(rollout, taken)
        eta = self.policy.eta()
        self._log_episode_returns(extrinsic_rewards, (x @ eta).view_as(extrinsic_rewards), done)
        returns = rollout.samples.advantages + features @ eta + rollout.samples.old_values
        self._policy_steps(rollout, features, returns, clip_range, clip_range_vf, logs)
        self._log_training(rollout, returns, clip_range, clip_range_vf, logs)

    def _policy_steps(
        self,
        rollout: LearnedRewardRollout,
        features: Tensor,
        returns: Tensor,
        clip_range: float,
        clip_range_vf: float | None,
        logs: Logs,
    ) -> None:
        """PPO on J^IN(θ, η + ε′), and a step of the extrinsic critic beside each of the policy's."""
        eta, parameters = self.policy.eta(), list(self.policy.own_parameters().values())
        features_mean = features.mean(0)
        within_target_kl = True
        for epoch in range(self.n_epochs):
            logs["train/approx_kl"] = []
            for rows in rollout.minibatches(self.batch_size):
                samples, noise = rollout.samples.rows(rows), self._noise(len(rows))
                advantages = samples.advantages + _linear(features[rows], features_mean, eta, noise)
                values, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions, eta + noise)
                log_ratio = log_prob - samples.old_log_prob
                ratio = log_ratio.exp()
                policy_loss = ppo_losses.policy_loss(ratio, self._normalized(advantages), clip_range)
                entropy_loss = ppo_losses.entropy_loss(log_prob, entropy)
                value_loss = ppo_losses.value_loss(values.flatten(), samples.old_values, returns[rows], clip_range_vf)
                loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
                with torch.no_grad():
                    logs["train/approx_kl"].append(torch.mean(ratio - 1 - log_ratio))
                    logs["train/clip_fraction"].append(((ratio - 1).abs() > clip_range).float().mean())
                if self.target_kl is not None and logs["train/approx_kl"][-1] > 1.5 * self.target_kl:
                    within_target_kl = False
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {logs['train/approx_kl'][-1]:.2f}")
                    break
                self.policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                self.policy.optimizer.step()
                extrinsic_loss = self._extrinsic_critic_step(samples, clip_range_vf)
                named = dict(policy_gradient_loss=policy_loss, value_loss=value_loss, entropy_loss=entropy_loss)
                for name, value in (named | dict(extrinsic_value_loss=extrinsic_loss)).items():
                    logs[f"train/{name}"].append(value.detach())
                logs["train/loss"] = [loss.detach()]  # of the last minibatch, as SB3 logs it
            self._n_updates += 1
            if not within_target_kl:
                break

    def _extrinsic_critic_step(self, samples: Samples, clip_range_vf: float | None) -> Tensor:
        values = self.extrinsic_critic(samples.observations)
        loss = ppo_losses.value_loss(values, samples.extrinsic_values, samples.extrinsic_returns, clip_range_vf)
        self.extrinsic_optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.extrinsic_critic.parameters(), self.max_grad_norm)
        self.extrinsic_optimizer.step()
        return loss

    # ------------------------------------------------------------------ logs

    @torch.no_grad()
    def _log_change_of_policy(self, rollout: LearnedRewardRollout) -> None:
        """How far the reward steps moved the policy that sees η, on a minibatch."""
        rows = next(rollout.minibatches(self.batch_size))
        samples = rollout.samples.rows(rows)
        log_prob, _ = self.policy.evaluate_actor(samples.observations, samples.actions, self.policy.eta())
        log_ratio = log_prob - samples.old_log_prob
        self.logger.record("cln/kl_of_reward_steps", torch.mean(log_ratio.exp() - 1 - log_ratio).item())
        self.logger.record("cln/gate_mean", self.policy.gate_mean())

    def _log_episode_returns(self, extrinsic: Tensor, intrinsic: Tensor, done: Tensor) -> None:
        """Mean returns of the episodes that ended in this rollout, in the rewards that PPO would see; rewards ``[B, T]``."""
        finished: list[np.ndarray] = []  # [2, episodes]
        for copy in range(len(done)):
            sums = torch.stack([extrinsic[copy], intrinsic[copy]]).double().cumsum(1).cpu().numpy()
            sums += self._episode_returns[:, copy, None]
            at_ends = sums[:, done[copy].cpu().numpy()]
            finished.append(np.diff(at_ends, axis=1, prepend=0))
            self._episode_returns[:, copy] = sums[:, -1] - (at_ends[:, -1] if at_ends.size else 0)
        returns = np.concatenate(finished, axis=1)
        if returns.size:
            for name, value in zip(("extrinsic_return", "intrinsic_return"), returns.mean(1), strict=True):
                self.logger.record(f"cln/{name}", value)

    def _log_training(
        self, rollout: LearnedRewardRollout, returns: Tensor, clip_range: float, clip_range_vf: float | None, logs: Logs
    ) -> None:
        record, samples = self.logger.record, rollout.samples
        for name, values in logs.items():
            record(name, torch.stack(values).mean().item())
        for name, predicted, true in (
            ("explained_variance", samples.old_values, returns),
            ("extrinsic_explained_variance", samples.extrinsic_values, samples.extrinsic_returns),
        ):
            record(f"train/{name}", explained_variance(predicted.cpu().numpy(), true.cpu().numpy()))
        if hasattr(self.policy, "log_std"):
            record("train/std", torch.exp(self.policy.log_std).mean().item())
        record("train/reward_learning_rate", self.reward_optimizer.param_groups[0]["lr"])
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            record("train/clip_range_vf", clip_range_vf)

    def learn(
        self: SelfCLN,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "CLN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfCLN:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        own = ["segments", "extrinsic_critic", "extrinsic_optimizer", "reward_optimizer"]
        return [*super()._excluded_save_params(), *own, "_at_theta", "_recorder"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names = ["policy", "policy.optimizer", "extrinsic_critic", "extrinsic_optimizer", "reward_optimizer", "segments"]
        return names, []


def _endless(rollout: LearnedRewardRollout, batch_size: int) -> Iterator[Tensor]:
    while True:
        yield from rollout.minibatches(batch_size)


def _linear(features: Tensor, features_mean: Tensor, eta: Tensor, noise: Tensor) -> Tensor:
    """F η + (F − mean F) ε ``[n]``: what the learned reward adds to advantages when each transition has its own ε.

    The critic is the baseline of the first part only; the mean is that of the second.
    """
    return features @ eta + ((features - features_mean) * noise).sum(1)
