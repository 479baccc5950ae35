"""CLN: PPO on a learned reward, with a policy that sees the reward's parameters (Zhang, Stadie & Ba)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_ext.cln.episode_returns import episode_returns
from sb3_ext.cln.policies import CLNPolicy, CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.cln.reward_training import CHUNK_SIZE, RewardTraining, perturbed_advantages, reward_features
from sb3_ext.common import ppo_losses
from sb3_ext.common.meta_gradient import Term
from sb3_ext.common.sb3_arguments import sb3_arguments
from sb3_ext.learned_reward.algorithm import ClipRanges, Logs
from sb3_ext.learned_reward.rollout import LearnedRewardRollout

SelfCLN = TypeVar("SelfCLN", bound="CLN")

DIRECT: tuple[Term, ...] = ("direct",)


class CLN(RewardTraining):
    """PPO on J^IN, the return of a learned reward r_φ(s, a; η); η, the reward's last layer, follows the extrinsic return J^EX.

    One iteration:

    1. a rollout with π(·|s, η + ε);
    2. ``n_reward_steps`` (N_r) minibatch steps of the reward network, η ← Adam(λ g_J + g_reg), the rest φ ← Adam(g_reg),
       where g_J is the chosen ``terms`` of dJ^EX/dη and g_reg the gradient of (Σ r_ex − Σ r_φ)², the mean over segments of
       D_r: all transitions collected so far, or a uniform sample of 100 000 of them;
    3. ``n_epochs`` passes in minibatches of PPO on J^IN(θ, η + ε′).

    J^EX is PPO's clipped surrogate with the normalised advantages of the environment's reward (that of its ``VecNormalize``),
    from a critic V^ex of its own. The policy sees η by conditional layer normalisation of its last hidden layer, so the direct
    term, E[Σ ∂log π/∂η Â^EX], goes through no update of the policy; the others go through one differentiable step of its
    optimiser. Until the first reward other than 0, J^EX is 0 and g_J is left out.

    ε is sampled for each environment and rollout, ε′ for each transition and step. The reward of a transition is that of the η
    that its policy sees: advantages are linear in η, Â(η + ε) = Â(η) + F ε, with F the discounted sums of the inputs of the
    last layer. So the policy learns the best response in a neighbourhood of η.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of :class:`CLNPolicy`.
        env: the environment, a ``VecEnv``, or the id of a registered environment.
        learning_rate: learning rate of the policy and of V^ex; a number or a schedule of the remaining progress.
        n_steps: steps of each environment in a rollout.
        batch_size: transitions in a minibatch.
        n_epochs: passes over a rollout (the paper's N_p).
        gamma: discount of both returns.
        gae_lambda: λ of generalised advantage estimation.
        clip_range: clipping of the probability ratio; a number or a schedule.
        clip_range_vf: clipping of the values of both critics; a number, a schedule, or None for no clipping.
        normalize_advantage: whether the advantages of both returns are normalised in each minibatch.
        ent_coef: coefficient of the policy's entropy.
        vf_coef: coefficient of the loss of the policy's critic.
        max_grad_norm: largest norm of the gradients of the policy, inside an update too, and of V^ex, each by itself.
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
        terms: terms of dJ^EX/dη, some of ``"direct"``, ``"mixed"``, ``"reward"``. The last two evaluate the reward network on
            the whole rollout in every reward step.
        n_reward_steps: N_r; 0 leaves the reward network as it was initialised.
        reward_learning_rate: learning rate of the reward network's Adam; a number or a schedule.
        meta_coef: λ, weight of g_J beside g_reg.
        segment_length: steps in a segment, which ends with its episode. Where rewards are delayed: the steps between two.
        segments_per_step: segments sampled from D_r for each reward step.
        eta_noise: standard deviation of ε and ε′.
        conditioner_arch: sizes of hidden layers before the affine maps of η to gate and shift (none in the paper's main form).
        film: whether gate and shift act without normalisation, the paper's comparison.
        extrinsic_coef: weight of the extrinsic reward in the policy's reward.
        intrinsic_coef: weight of r_φ in the policy's reward.
        reward_network_kwargs: arguments of :class:`~sb3_ext.learned_reward.RewardNetwork`, without ``squash``: r_φ is linear
            in η. It takes the observations that the policy sees, and clipped Box actions.

    ``reward_network`` is r_φ, :meth:`intrinsic_rewards` evaluates it. Logs: ``cln/extrinsic_return`` and ``intrinsic_return``
    of the rollout's finished episodes, ``regularizer_loss``, ``gate_mean``, ``meta_gradient_norm`` (of g_J) and
    ``kl_of_reward_steps``, the change of the policy by the reward steps; for V^ex as in :class:`sb3_ext.LIRPG`.

    Raises:
        ValueError: for an argument out of range, and for NaN or infinite rewards.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

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
        segment_length: int = 4,
        segments_per_step: int = 64,
        eta_noise: float = 0.01,
        conditioner_arch: Sequence[int] = (),
        film: bool = False,
        extrinsic_coef: float = 0.0,
        intrinsic_coef: float = 1.0,
        reward_network_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(conditioner_arch, Sequence):
            raise ValueError(f"conditioner_arch must be a list of layer sizes, got {conditioner_arch!r}.")
        self.conditioner_arch = tuple(conditioner_arch)
        self.film = film
        super().__init__(
            **sb3_arguments(PPO, locals()),
            extrinsic_coef=extrinsic_coef,
            intrinsic_coef=intrinsic_coef,
            reward_learning_rate=reward_learning_rate,
            reward_network_kwargs=reward_network_kwargs,
            terms=terms,
            n_reward_steps=n_reward_steps,
            meta_coef=meta_coef,
            segment_length=segment_length,
            segments_per_step=segments_per_step,
            eta_noise=eta_noise,
        )

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, CLNPolicy):
            raise ValueError(f"CLN needs a policy derived from sb3_ext.cln.CLNPolicy, got {self.policy_class.__name__}.")
        own = {name: getattr(self, name) for name in ("conditioner_arch", "film", "reward_network_kwargs")}
        twice = own.keys() & self.policy_kwargs.keys()
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: give them to CLN itself, not in policy_kwargs.")
        self.policy_kwargs, given = self.policy_kwargs | own, self.policy_kwargs
        super()._setup_model()
        self.policy_kwargs = given

    def _maybe_recommend_cpu(self, mlp_class_name: str = "CLNPolicy") -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    # ------------------------------------------------------------------ rollouts

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:  # the environments are reset
            self._episode_returns, self._ages = np.zeros((2, self.n_envs)), np.zeros(self.n_envs, dtype=int)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        self.policy.collection_noise = self._noise(env.num_envs)
        try:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        finally:
            self.policy.collection_noise = None

    # ------------------------------------------------------------------ training

    def train(self) -> None:
        """Train the reward network, then the policy and V^ex by PPO's update on the new rewards."""
        self._update_learning_rates()
        clip_ranges = self._clip_ranges()
        logs: Logs = defaultdict(list)
        rollout = self._rollout(CHUNK_SIZE)
        actions = self._rewarded_actions(rollout.samples.actions)
        self._store_segments(rollout, actions)
        self._reward_steps(rollout, actions, clip_ranges[0], logs)
        self._log_reward_steps(rollout)
        self.reward_network.eval()  # the policy learns from its rewards
        x, features = reward_features(self.reward_network, rollout, actions, self.intrinsic_coef)
        eta = self.policy.eta()
        self._log_episode_returns(rollout, x @ eta)
        returns = rollout.samples.advantages + features @ eta + rollout.samples.old_values
        self._policy_steps(rollout, features, returns, clip_ranges, logs)
        self._log_training(rollout, returns, logs)

    def _policy_steps(
        self, rollout: LearnedRewardRollout, features: Tensor, returns: Tensor, clip_ranges: ClipRanges, logs: Logs
    ) -> None:
        """Train the policy by PPO on J^IN(θ, η + ε′), and V^ex beside it.

        Args:
            rollout: n transitions.
            features: F ``[n, n_condition]``.
            returns: ``[n]``, targets of the policy's critic.
            clip_ranges: of the probability ratio and of the values.
            logs: values by log key, to which the update's are added.
        """
        eta, features_mean = self.policy.eta(), features.mean(0)
        parameters = list(self.policy.own_parameters().values())

        def update(rows: Tensor) -> bool:
            samples, noise = rollout.samples.rows(rows), self._noise(len(rows))
            advantages = samples.advantages + perturbed_advantages(features[rows], features_mean, eta, noise)
            values, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions, eta + noise)
            loss, figures = self._ppo_loss(
                values.flatten(), log_prob, entropy, samples, advantages, returns[rows], *clip_ranges
            )
            self._note(logs, figures)
            if self._exceeds_target_kl(logs["train/approx_kl"][-1]):
                return False
            self._clipped_step(self.policy.optimizer, loss, parameters)
            values = self.extrinsic_critic(samples.observations)
            loss = ppo_losses.value_loss(values, samples.extrinsic_values, samples.extrinsic_returns, clip_ranges[1])
            self._clipped_step(self.extrinsic_optimizer, loss, list(self.extrinsic_critic.parameters()))
            self._note(logs, {"train/extrinsic_value_loss": loss.detach()})
            return True

        self._train_epochs(rollout, logs, update)

    # ------------------------------------------------------------------ logs

    @torch.no_grad()
    def _log_reward_steps(self, rollout: LearnedRewardRollout) -> None:
        """Log how far the reward steps moved the policy, which sees η, on a minibatch."""
        samples = rollout.samples.rows(next(rollout.minibatches(self.batch_size)))
        log_prob, _ = self.policy.evaluate_actor(samples.observations, samples.actions, self.policy.eta())
        log_ratio = log_prob - samples.old_log_prob
        self.logger.record("cln/kl_of_reward_steps", torch.mean(log_ratio.exp() - 1 - log_ratio).item())
        self.logger.record("cln/gate_mean", self.policy.gate_mean())

    def _log_episode_returns(self, rollout: LearnedRewardRollout, intrinsic: Tensor) -> None:
        """Log mean returns of the rollout's finished episodes; ``intrinsic`` are learned rewards ``[n]``."""
        done = rollout.done.t()
        rewards = torch.stack([rollout.extrinsic_rewards.t(), intrinsic.view(done.shape)])
        finished, self._episode_returns = episode_returns(
            rewards.double().cpu().numpy(), done.cpu().numpy(), self._episode_returns
        )
        if finished.size:
            for name, value in zip(("extrinsic_return", "intrinsic_return"), finished.mean(1), strict=True):
                self.logger.record(f"cln/{name}", value)

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
