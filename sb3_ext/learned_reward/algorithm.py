"""The arguments, networks, rollouts and logs that all algorithms with a learned reward share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from irwrappers.validation import check_range
from sb3_ext.common import ppo_losses
from sb3_ext.common.checkpoint import WholeSave
from sb3_ext.common.supported_envs import check_spaces
from sb3_ext.learned_reward.extrinsic_critic import ExtrinsicCritic
from sb3_ext.learned_reward.recorder import ExtrinsicRecorder
from sb3_ext.learned_reward.reward_network import RewardNetwork
from sb3_ext.learned_reward.rollout import LearnedRewardRollout, Samples, make_rollout

Logs = dict[str, list[float]]
"""Values by log key. Numbers, because small tensors between large ones would keep the memory of those from being reused."""
ClipRanges = tuple[float, float | None]
"""The present values of PPO's ``clip_range`` and ``clip_range_vf``."""


class LearnedRewardAlgorithm(WholeSave, OnPolicyAlgorithm):
    """Mixin for an algorithm of SB3 whose policy maximises extrinsic_coef · r_ex + intrinsic_coef · r_η(s, a).

    A subclass provides ``reward_network`` and decides how its parameters η learn from the extrinsic return.

    Args:
        *args: positional arguments of SB3's algorithm.
        extrinsic_coef: weight of the extrinsic reward r_ex in the policy's reward.
        intrinsic_coef: weight of the learned reward r_η in the policy's reward.
        reward_learning_rate: learning rate of the reward network; a number or a schedule of the remaining progress.
        reward_network_kwargs: arguments of :class:`~sb3_ext.learned_reward.RewardNetwork`, or None for its defaults.
        **kwargs: keyword arguments of SB3's algorithm.

    Raises:
        ValueError: for an argument out of range.
    """

    fixed_reward_network_kwargs: ClassVar[tuple[str, ...]] = ()  # not for the user to choose
    records_originals: ClassVar[bool] = False  # whether the recorder keeps unnormalised observations and rewards
    reward_network: RewardNetwork
    extrinsic_critic: ExtrinsicCritic
    _recorder: ExtrinsicRecorder
    _reward_seen = False  # whether an extrinsic reward other than 0 has been received

    def __init__(
        self,
        *args: Any,
        extrinsic_coef: float,
        intrinsic_coef: float,
        reward_learning_rate: float | Schedule,
        reward_network_kwargs: dict[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        check_range("extrinsic_coef", extrinsic_coef, 0, schedule=False)
        check_range("intrinsic_coef", intrinsic_coef, 0, schedule=False)
        if extrinsic_coef == intrinsic_coef == 0:
            raise ValueError("extrinsic_coef and intrinsic_coef are both 0: the policy would receive no reward.")
        check_range("reward_learning_rate", reward_learning_rate, 0)
        fixed = self.fixed_reward_network_kwargs
        if not isinstance(reward_network_kwargs, dict | None) or set(fixed) & set(reward_network_kwargs or {}):
            expected = "None or a dict of RewardNetwork's arguments" + "".join(f" but {name}" for name in fixed)
            raise ValueError(f"reward_network_kwargs must be {expected}, got {reward_network_kwargs!r}.")
        self.extrinsic_coef = extrinsic_coef
        self.intrinsic_coef = intrinsic_coef
        self.reward_learning_rate = reward_learning_rate
        self.reward_network_kwargs = reward_network_kwargs
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        check_spaces(self.observation_space, self.action_space)
        super()._setup_model()
        self.reward_lr_schedule = FloatSchedule(self.reward_learning_rate)
        self._setup_learned_reward()

    def _setup_learned_reward(self) -> None:
        """Build V^ex and the optimisers; subclasses build the reward network before."""
        self.extrinsic_critic = ExtrinsicCritic(self.policy).to(self.device)
        self.reward_optimizer = self._make_optimizer(self.reward_network, self.reward_lr_schedule(1))
        self.extrinsic_optimizer = self._make_optimizer(self.extrinsic_critic, self.lr_schedule(1))

    def _make_optimizer(self, module: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """Return an optimiser for the reward network or V^ex."""
        raise NotImplementedError

    def _set_training_mode(self, training: bool) -> None:
        """Set dropout and batch normalisation of all networks to training or to evaluation."""
        for module in (self.policy, self.reward_network, self.extrinsic_critic):
            module.train(training)

    # ------------------------------------------------------------------ rollouts

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        self._set_training_mode(False)
        # SB3 computes returns and advantages of extrinsic_coef · r_ex; train() adds those of the learned reward.
        self._recorder = ExtrinsicRecorder(env, self.extrinsic_coef)
        if self.records_originals:
            self._recorder.record_originals(self._last_obs)
        return super().collect_rollouts(self._recorder, callback, rollout_buffer, n_rollout_steps)

    def _has_seen_reward(self) -> bool:
        """Return whether an extrinsic reward other than 0 has been received, in this rollout or before.

        Until then J^ex is 0, and an estimate of its gradient would be nothing but the error of V^ex.
        """
        self._reward_seen = self._reward_seen or bool(self._recorder.stacked_rewards().any())
        return self._reward_seen

    def _rollout(self, chunk_size: int) -> LearnedRewardRollout:
        """Return the rollout that was collected last, and begin to train; V^ex takes ``chunk_size`` observations at a time."""
        assert self._last_episode_starts is not None
        rollout = make_rollout(
            self.rollout_buffer,
            self._recorder,
            self._last_obs,
            self._last_episode_starts,
            lambda observations: self.policy.obs_to_tensor(observations)[0],
            self.extrinsic_critic,
            chunk_size,
        )
        self._set_training_mode(True)
        return rollout

    def _rewarded_actions(self, actions: Tensor) -> Tensor:
        """Return sampled actions as the reward network takes them."""
        return actions

    def intrinsic_rewards(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """Return learned rewards r_η(s, a) ``[n]``.

        Args:
            observations: ``[n, …]`` as the policy sees them, normalised where there is a ``VecNormalize``.
            actions: ``[n, …]`` as the policy samples them, Box actions before they are clipped.
        """
        observations, training = self.policy.obs_to_tensor(observations)[0], self.reward_network.training
        self.reward_network.eval()
        with torch.no_grad():
            rewarded = self._rewarded_actions(torch.as_tensor(actions, device=self.device))
            rewards = self.reward_network(observations, rewarded).cpu().numpy()
        self.reward_network.train(training)
        return rewards

    # ------------------------------------------------------------------ training

    def _update_learning_rates(self) -> None:
        """Set and log the learning rates of all three optimisers."""
        self._update_learning_rate([self.policy.optimizer, self.extrinsic_optimizer])
        learning_rate = self.reward_lr_schedule(self._current_progress_remaining)
        update_learning_rate(self.reward_optimizer, learning_rate)
        self.logger.record("train/reward_learning_rate", learning_rate)

    def _clipped_step(self, optimizer: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        """Take a step of ``optimizer`` along the gradient of ``loss``, clipped to ``max_grad_norm``."""
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        optimizer.step()

    def _log_training(self, rollout: LearnedRewardRollout, returns: Tensor, logs: Mapping[str, Sequence[float]]) -> None:
        """Log the means of ``logs``, the explained variances of both critics, and what SB3 logs after an update.

        Args:
            rollout: the rollout that was trained on.
            returns: ``[n]``, targets of the policy's critic.
            logs: values by log key.
        """
        record, samples = self.logger.record, rollout.samples
        for name, values in logs.items():
            record(name, np.mean(values))
        for name, predicted, true in (
            ("explained_variance", samples.old_values, returns),
            ("extrinsic_explained_variance", samples.extrinsic_values, samples.extrinsic_returns),
        ):
            record(f"train/{name}", float(explained_variance(predicted.cpu().numpy(), true.cpu().numpy())))
        if hasattr(self.policy, "log_std"):
            record("train/std", torch.exp(self.policy.log_std).mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")

    # ------------------------------------------------------------------ saving

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_recorder"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, "reward_optimizer", "extrinsic_critic", "extrinsic_optimizer"], tensors


class LearnedRewardPPO(LearnedRewardAlgorithm, PPO):
    """PPO's minibatch loop and loss, for a learned reward.

    Args:
        *args: positional arguments of SB3's PPO.
        extrinsic_coef: weight of the extrinsic reward in the policy's reward.
        intrinsic_coef: weight of the learned reward in the policy's reward.
        reward_learning_rate: learning rate of the reward network.
        reward_network_kwargs: arguments of the reward network.
        **kwargs: keyword arguments of SB3's PPO.
    """

    def _clip_ranges(self) -> ClipRanges:
        """Return and log the present ``clip_range`` and ``clip_range_vf``."""
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        self.logger.record("train/clip_range", clip_range)
        if self.clip_range_vf is None:
            return clip_range, None
        clip_range_vf = self.clip_range_vf(progress)  # type: ignore[operator]
        self.logger.record("train/clip_range_vf", clip_range_vf)
        return clip_range, clip_range_vf

    def _train_epochs(self, rollout: LearnedRewardRollout, logs: Logs, update: Callable[[Tensor], bool]) -> None:
        """Call ``update`` on the indices of every minibatch of every epoch, until it returns False: KL beyond target_kl."""
        for epoch in range(self.n_epochs):
            logs["train/approx_kl"] = []  # of the last epoch, as SB3 logs it
            within_target_kl = all(update(rows) for rows in rollout.minibatches(self.batch_size))
            self._n_updates += 1
            if not within_target_kl:
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {logs['train/approx_kl'][-1]:.2f}")
                break

    def _exceeds_target_kl(self, approx_kl: float) -> bool:
        return self.target_kl is not None and approx_kl > 1.5 * self.target_kl

    def _surrogate(self, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
        """Return the negative of PPO's clipped objective ``[]``, of advantages ``[n]`` that it normalises if PPO does."""
        if self.normalize_advantage:
            advantages = ppo_losses.normalized(advantages)
        return ppo_losses.policy_loss(torch.exp(log_prob - old_log_prob), advantages, clip_range)

    def _ppo_loss(
        self,
        values: Tensor,
        log_prob: Tensor,
        entropy: Tensor | None,
        samples: Samples,
        advantages: Tensor,
        returns: Tensor,
        clip_range: float,
        clip_range_vf: float | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return PPO's loss ``[]`` of a minibatch, and what SB3 logs of it, by log key.

        Args:
            values: ``[n]``, of the policy's critic now.
            log_prob: ``[n]``, of the policy now.
            entropy: ``[n]``, or None where it has no closed form.
            samples: the minibatch.
            advantages: ``[n]``, not normalised yet.
            returns: ``[n]``, targets of the policy's critic.
            clip_range: of the probability ratio.
            clip_range_vf: of the values, or None.
        """
        policy_loss = self._surrogate(log_prob, samples.old_log_prob, advantages, clip_range)
        value_loss = ppo_losses.value_loss(values, samples.old_values, returns, clip_range_vf)
        entropy_loss = ppo_losses.entropy_loss(log_prob, entropy)
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        with torch.no_grad():
            log_ratio = log_prob - samples.old_log_prob
            ratio = torch.exp(log_ratio)
            figures = {
                "train/approx_kl": torch.mean((ratio - 1) - log_ratio),
                "train/clip_fraction": torch.mean(((ratio - 1).abs() > clip_range).float()),
                "train/policy_gradient_loss": policy_loss.detach(),
                "train/value_loss": value_loss.detach(),
                "train/entropy_loss": entropy_loss.detach(),
                "train/loss": loss.detach(),
            }
        return loss, figures

    @staticmethod
    def _note(logs: Logs, figures: Mapping[str, Tensor]) -> None:
        """Append ``figures`` to ``logs``."""
        for name, value in figures.items():
            logs[name].append(value.item())
        logs["train/loss"] = logs["train/loss"][-1:]  # of the last minibatch, as SB3 logs it
