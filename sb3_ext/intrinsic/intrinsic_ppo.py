"""IntrinsicPPO: PPO with an intrinsic reward, in the two-headed form of RND (Burda et al., arXiv 1810.12894)."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from irwrappers import IntrinsicReward, Transitions
from irwrappers.transitions import TransitionRecorder
from irwrappers.validation import check_range
from sb3_ext.common import ppo_losses
from sb3_ext.common.checkpoint import WholeSave
from sb3_ext.common.gae import generalized_advantage_estimation
from sb3_ext.common.original_space import original_observation_space
from sb3_ext.common.sb3_arguments import default_n_steps, sb3_arguments
from sb3_ext.common.supported_envs import check_early_resets, check_spaces
from sb3_ext.common.threads import few_threads
from sb3_ext.intrinsic.buffers import IntrinsicDictRolloutBuffer, IntrinsicRolloutBuffer, IntrinsicRolloutSamples
from sb3_ext.intrinsic.channels import make_weighted_reward
from sb3_ext.intrinsic.policies import CnnPolicy, IntrinsicActorCriticPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.intrinsic.returns import ReturnStd

SelfIntrinsicPPO = TypeVar("SelfIntrinsicPPO", bound="IntrinsicPPO")

WARMUP_SHARE = 10  # the warm-up takes at most one part in so many of a run


class IntrinsicPPO(WholeSave, PPO):
    """PPO on extrinsic and intrinsic rewards, with a value head and a discount for each: its advantages are c_E·Â_E + c_I·Â_I.

    The extrinsic return ends where an episode terminates; SB3 bootstraps it where one is truncated. The intrinsic return does
    not end: the state after the last one of an episode is the first of the next, so the end of an episode costs no more than
    the novelty it prevents. Intrinsic rewards are divided by the running deviation of their return. They are computed after a
    rollout, before the reward model learns from it.

    The reward model sees original observations, those beneath any ``VecNormalize``, whose statistics exclude the intrinsic
    reward. A coefficient of 0 removes its reward altogether: with ``intrinsic_coef=0`` this is SB3's PPO, weight for weight;
    with ``extrinsic_coef=0`` nothing learns from the environment's reward.

    Arguments up to ``_init_setup_model`` are those of SB3's PPO, in its order and with its meaning, so that ``PPO(…)`` becomes
    ``IntrinsicPPO(…)`` without other changes; the others are keyword-only.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
            :class:`IntrinsicActorCriticPolicy`.
        env: environment, ``VecEnv`` or registered id.
        learning_rate: of Adam; a number or a schedule of the remaining progress.
        n_steps: steps of each environment in a rollout. Default: ``max(1, 2048 // n_envs)``, 2048 transitions in all: a
            rollout that grows with the environments, as in PPO, updates the policy too rarely to follow an intrinsic reward.
        batch_size: transitions in a minibatch. If the default rollout is no multiple of it, the last minibatch of an
            epoch is smaller.
        n_epochs: passes over a rollout.
        gamma: discount of the extrinsic return (0.999 in RND's paper).
        gae_lambda: λ of generalised advantage estimation, for both returns.
        clip_range: of the probability ratio; a number or a schedule.
        clip_range_vf: of the values, for both heads; a number, a schedule, or None for no clipping.
        normalize_advantage: whether the weighted sum of both advantages is normalised in each minibatch.
        ent_coef: coefficient of the entropy.
        vf_coef: coefficient of the value loss of each head.
        max_grad_norm: largest norm of a gradient.
        use_sde: whether actions are explored by generalised state-dependent noise.
        sde_sample_freq: steps after which that noise is sampled anew; -1 for once a rollout.
        rollout_buffer_class: SB3's ``RolloutBuffer`` or ``DictRolloutBuffer``, or a subclass of
            ``sb3_ext.intrinsic.buffers.IntrinsicRolloutBuffer``. Default: by the observation space.
        rollout_buffer_kwargs: further arguments of the rollout buffer.
        target_kl: an update stops where the approximate KL divergence exceeds 1.5 times this; None for no limit.
        stats_window_size: episodes over which ``rollout/…`` is averaged.
        tensorboard_log: folder of the TensorBoard log, or None.
        policy_kwargs: arguments of the policy.
        verbose: 0 for no output, 1 for information, 2 for debugging.
        seed: seed of the policy, the environments and the intrinsic reward.
        device: device of the networks.
        _init_setup_model: whether the networks are built at once.
        intrinsic_gamma: discount of the intrinsic return (0.99 in the paper).
        extrinsic_coef: c_E, weight of the extrinsic advantage (2 in the paper).
        intrinsic_coef: c_I, weight of the intrinsic advantage (1 in the paper); a number or a schedule of the remaining
            progress.
        intrinsic_reward: a name (``irwrappers.make_intrinsic_reward``), an instance, ``{name: arguments}`` or a list of these.
        intrinsic_reward_kwargs: arguments for a name.
        intrinsic_weights: weights of the reward's channels, each divided by the deviation of its own return. Default: 1 each;
            the signed pairs of ALLO, ExactLaplacian and RandomNetworkReward would cancel and need them.
        warmup_steps: largest number of random steps, in all environments together, that initialise the reward model's
            observation normalisation: at most a tenth of the run. They count in ``num_timesteps``.

    ``rollout/ep_rew_mean`` is the extrinsic return; ``intrinsic/…`` are the mean raw reward, the deviation of its return and
    the logs of the reward model.

    Raises:
        ValueError: for an argument out of range, and for NaN or infinite observations and rewards.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: IntrinsicActorCriticPolicy
    rollout_buffer: IntrinsicRolloutBuffer
    intrinsic_reward: IntrinsicReward
    intrinsic_return: ReturnStd

    def __init__(
        self,
        policy: str | type[IntrinsicActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int | None = None,
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
        intrinsic_gamma: float = 0.99,
        extrinsic_coef: float = 2.0,
        intrinsic_coef: float | Schedule = 1.0,
        intrinsic_reward: str | IntrinsicReward | dict[str, dict[str, Any]] | list[Any] = "rnd",
        intrinsic_reward_kwargs: dict[str, Any] | None = None,
        intrinsic_weights: Sequence[float] | None = None,
        warmup_steps: int = 10_000,
    ) -> None:
        check_range("intrinsic_gamma", intrinsic_gamma, 0, 1)
        check_range("extrinsic_coef", extrinsic_coef, 0)
        check_range("intrinsic_coef", intrinsic_coef, 0)
        check_range("warmup_steps", warmup_steps, 0, integer=True)
        if n_steps is not None:
            check_range("n_steps", n_steps, 1, integer=True)
            n_steps = int(n_steps)
        arguments = sb3_arguments(PPO, locals()) | dict(_init_setup_model=False)
        arguments["n_steps"] = default_n_steps(env.num_envs if isinstance(env, VecEnv) else 1) if n_steps is None else n_steps
        self.n_steps_given = n_steps
        with warnings.catch_warnings():
            if n_steps is None:  # the user can do nothing about the size of a rollout that is the default
                warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            super().__init__(**arguments)
        self.intrinsic_gamma = intrinsic_gamma
        self.extrinsic_coef = extrinsic_coef
        self.intrinsic_coef = intrinsic_coef
        self.intrinsic_reward_spec = intrinsic_reward
        self.intrinsic_reward_kwargs = intrinsic_reward_kwargs
        self.intrinsic_weights = intrinsic_weights
        self.warmup_steps = warmup_steps
        if self.env is not None:
            self.original_observation_space = original_observation_space(self.env)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_spaces(self.observation_space, self.action_space)
        if not issubclass(self.policy_class, IntrinsicActorCriticPolicy):
            raise ValueError(
                "IntrinsicPPO needs a policy derived from sb3_ext.intrinsic.IntrinsicActorCriticPolicy, got "
                f"{self.policy_class.__name__}."
            )
        self.rollout_buffer_class = self._buffer_class()
        if self.n_steps_given is None:  # a saved model may be loaded with another number of environments
            self.n_steps = default_n_steps(self.n_envs)
        super()._setup_model()
        reward, weights = make_weighted_reward(
            self.intrinsic_reward_spec,
            self.intrinsic_reward_kwargs,
            self.intrinsic_weights,
            self.original_observation_space,
            self.action_space,
            "IntrinsicPPO",
        )
        self.intrinsic_reward = reward.to(self.device)
        self._channel_weights = weights.to(self.device)
        self.intrinsic_return = ReturnStd(reward.n_rewards, self.intrinsic_gamma).to(self.device)

    def _buffer_class(self) -> type[IntrinsicRolloutBuffer]:
        given = self.rollout_buffer_class
        if given is None or given in (RolloutBuffer, DictRolloutBuffer):
            return IntrinsicDictRolloutBuffer if isinstance(self.observation_space, spaces.Dict) else IntrinsicRolloutBuffer
        if not issubclass(given, IntrinsicRolloutBuffer):
            raise ValueError(
                "IntrinsicPPO keeps intrinsic values and returns beside SB3's: rollout_buffer_class must be a subclass of "
                f"sb3_ext.intrinsic.buffers.IntrinsicRolloutBuffer, got {given.__name__}."
            )
        return given

    def _maybe_recommend_cpu(self, mlp_class_name: str = "IntrinsicActorCriticPolicy") -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    @property
    def is_intrinsic(self) -> bool:
        """Whether the intrinsic reward is used."""
        return callable(self.intrinsic_coef) or self.intrinsic_coef > 0

    # ------------------------------------------------------------------ rollouts

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        assert self.env is not None
        if original_observation_space(self.env) != self.original_observation_space:
            raise ValueError(
                f"The reward model was built for original observations {self.original_observation_space}, those of the "
                f"environment are {original_observation_space(self.env)}. "
                "Put VecNormalize where it was when the model was built, outermost."
            )
        total_timesteps = int(total_timesteps)  # learn(1e6) is a float
        starts_anew = reset_num_timesteps or self._last_obs is None
        total_timesteps, callback = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)
        if starts_anew:
            self.intrinsic_reward.forget()
        to_come = total_timesteps - self.num_timesteps
        if self.is_intrinsic and self.intrinsic_reward.needs_fit and to_come > 0:
            self._warm_up(min(self.warmup_steps, max(to_come // WARMUP_SHARE, self.n_envs)))
        return total_timesteps, callback

    def _warm_up(self, budget: int) -> None:
        """Fit the reward model on random steps, then reset the environments."""
        assert self.env is not None
        check_early_resets(self.env)
        try:
            self.num_timesteps += self.intrinsic_reward.fit(self.env, budget, seed=self.seed)
        except ValueError as error:
            error.add_note(f"The warm-up had {budget} steps: warmup_steps={self.warmup_steps}, at most a tenth of the run.")
            raise
        self.intrinsic_reward.to(self.device)
        self._last_obs = self.env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(self.env.num_envs, dtype=bool)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        if not self.is_intrinsic:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        recorder = TransitionRecorder(env, self._last_obs)
        if not super().collect_rollouts(recorder, callback, rollout_buffer, n_rollout_steps):
            return False
        self._scale_extrinsic_advantages(np.stack(recorder.rewards))
        rewards = self._compute_intrinsic_rewards(recorder.transitions(self.device))
        self._add_intrinsic_advantages(rewards)
        return True

    def _scale_extrinsic_advantages(self, rewards: np.ndarray) -> None:
        """Do nothing; subclasses scale extrinsic advantages by a rollout's rewards ``[T, B]``, before they are summed."""

    def _compute_intrinsic_rewards(self, transitions: Transitions) -> Tensor:
        """Return intrinsic rewards ``[T, B]``, divided by the deviation of their return, then train the reward model."""
        rewards = self.intrinsic_reward.compute(transitions)
        rewards = rewards.masked_fill(~transitions.mask[..., None], 0)
        if not rewards.isfinite().all():
            raise ValueError(
                f"The intrinsic reward {type(self.intrinsic_reward).__name__} gave NaN or infinite values for finite "
                "observations; look at their size and at the reward's learning rate."
            )
        self.intrinsic_return.update(rewards)
        self._log_channels("reward_mean", rewards.mean((0, 1)))
        self._log_channels("return_std", self.intrinsic_return.std)
        for key, value in self.intrinsic_reward.update(transitions).items():
            self.logger.record(f"intrinsic/{key}", value)
        return self.intrinsic_return.normalize(rewards) @ self._channel_weights

    @torch.no_grad()
    def _add_intrinsic_advantages(self, rewards: Tensor) -> None:
        """Compute Â_I and the targets of V_int from rewards ``[T, B]``; ``advantages`` become c_E·Â_E + c_I·Â_I."""
        buffer = self.rollout_buffer
        flat = tree_map(lambda x: x.reshape(-1, *x.shape[2:]), buffer.observations)
        # In chunks of a minibatch, so that the rollout needs no more memory than a training step.
        chunks = [slice(start, start + self.batch_size) for start in range(0, rewards.numel(), self.batch_size)]
        values = torch.cat([self._intrinsic_values(tree_map(itemgetter(chunk), flat)) for chunk in chunks])
        values = values.view(rewards.shape)
        # The next state is that of the next row even if an episode ended: the intrinsic return continues after the reset.
        next_values = torch.cat([values[1:], self._intrinsic_values(self._last_obs)[None]])
        never = torch.zeros_like(rewards, dtype=torch.bool)
        advantages = generalized_advantage_estimation(
            rewards, values, next_values, never, never, self.intrinsic_gamma, self.gae_lambda
        )
        buffer.intrinsic_values = values.cpu().numpy()
        buffer.intrinsic_returns = (advantages + values).cpu().numpy()
        coef = self.intrinsic_coef(self._current_progress_remaining) if callable(self.intrinsic_coef) else self.intrinsic_coef
        buffer.advantages = self.extrinsic_coef * buffer.advantages + coef * advantages.cpu().numpy()
        explained = explained_variance(buffer.intrinsic_values.flatten(), buffer.intrinsic_returns.flatten())
        self.logger.record("intrinsic/explained_variance", explained)
        self.logger.record("intrinsic/coef", coef)

    def _intrinsic_values(self, observations: Any) -> Tensor:
        return self.policy.predict_intrinsic_values(obs_as_tensor(observations, self.device))

    def _log_channels(self, what: str, values: Tensor) -> None:
        names = self.intrinsic_reward.channel_names
        for name, value in zip(names, values.tolist(), strict=True):
            self.logger.record(f"intrinsic/{what}" if len(names) == 1 else f"intrinsic/{what}_{name}", value)

    # ------------------------------------------------------------------ training

    def train(self) -> None:
        """Update the policy by PPO, with a value loss for each head."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = None
        if self.clip_range_vf is not None:
            clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
        logs: dict[str, list[float]] = defaultdict(list)
        within_target_kl = True
        for epoch in range(self.n_epochs):
            logs["approx_kl"] = []
            for batch in self.rollout_buffer.get(self.batch_size):
                loss = self._loss(batch, clip_range, clip_range_vf, logs)
                if self.target_kl is not None and logs["approx_kl"][-1] > 1.5 * self.target_kl:
                    within_target_kl = False
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {logs['approx_kl'][-1]:.2f}")
                    break
                self.policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
            self._n_updates += 1
            if not within_target_kl:
                break
        self._log_training(logs, clip_range, clip_range_vf)

    def _loss(
        self, batch: IntrinsicRolloutSamples, clip_range: float, clip_range_vf: float | None, logs: dict[str, list[float]]
    ) -> Tensor:
        """Return PPO's loss of a minibatch, with the value loss of each reward whose coefficient is not 0."""
        actions = batch.actions.long().flatten() if isinstance(self.action_space, spaces.Discrete) else batch.actions
        values, intrinsic_values, log_prob, entropy = self.policy.evaluate_both(batch.observations, actions)
        advantages = batch.advantages
        if self.normalize_advantage:
            advantages = ppo_losses.normalized(advantages)
        log_ratio = log_prob - batch.old_log_prob
        ratio = torch.exp(log_ratio)
        policy_loss = ppo_losses.policy_loss(ratio, advantages, clip_range)
        entropy_loss = ppo_losses.entropy_loss(log_prob, entropy)
        value_loss = ppo_losses.value_loss(values, batch.old_values, batch.returns, clip_range_vf)
        loss = policy_loss + self.ent_coef * entropy_loss
        if self.extrinsic_coef > 0:
            loss = loss + self.vf_coef * value_loss
        if self.is_intrinsic:
            intrinsic_loss = ppo_losses.value_loss(
                intrinsic_values, batch.old_intrinsic_values, batch.intrinsic_returns, clip_range_vf
            )
            loss = loss + self.vf_coef * intrinsic_loss
            logs["intrinsic_value_loss"].append(intrinsic_loss.item())
        with torch.no_grad():
            logs["approx_kl"].append(torch.mean((ratio - 1) - log_ratio).item())
            logs["clip_fraction"].append(torch.mean(((ratio - 1).abs() > clip_range).float()).item())
        for name, value in (("entropy_loss", entropy_loss), ("policy_gradient_loss", policy_loss), ("value_loss", value_loss)):
            logs[name].append(value.item())
        logs["loss"] = [loss.item()]  # of the last minibatch, as SB3 logs it
        return loss

    def _log_training(self, logs: dict[str, list[float]], clip_range: float, clip_range_vf: float | None) -> None:
        record, buffer = self.logger.record, self.rollout_buffer
        for name, values in logs.items():
            record(f"train/{name}", np.mean(values))
        record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        if hasattr(self.policy, "log_std"):
            record("train/std", torch.exp(self.policy.log_std).mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            record("train/clip_range_vf", clip_range_vf)

    def learn(
        self: SelfIntrinsicPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "IntrinsicPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfIntrinsicPPO:
        with few_threads(self.policy, self.intrinsic_reward):
            return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_channel_weights"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "intrinsic_reward", "intrinsic_return"], []
