"""Exploratory policies of IRPO: PPO on an intrinsic reward beside the extrinsic one."""

from __future__ import annotations

import copy
from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from irwrappers import IntrinsicReward, make_intrinsic_reward
from sb3_ext.common import ppo_losses
from sb3_ext.common.optimizers import Params, clip_by_global_norm
from sb3_ext.intrinsic import IntrinsicPPO
from sb3_ext.intrinsic.buffers import IntrinsicRolloutSamples
from sb3_ext.intrinsic.returns import ReturnRange
from sb3_ext.irpo.follow import (
    UpdateRecord,
    cosine_and_ratio,
    divergence_of,
    pull_back,
    record_updates,
    step_to_divergence,
    trained_parameters,
)

LONGEST_KEY = 33  # characters, after "exploration/", that SB3's table prints in full
FOLLOW_KL = 0.01  # nats, of a step along the gradient of an exploratory policy


class _PrefixedLogger:
    """Writes ``train/loss`` as ``<prefix>/loss``, and ``intrinsic/loss`` as ``<prefix>/intrinsic_loss``, to another logger.

    SB3's table cuts names of more than 36 characters and is an error where two are then the same: longer ones go to the CSV,
    JSON and TensorBoard logs only.
    """

    def __init__(self, logger: Logger, prefix: str) -> None:
        self._logger = logger
        self._prefix = prefix

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        key = f"{self._prefix}/{key.removeprefix('train/').replace('/', '_')}"
        if len(key.partition("/")[2]) > LONGEST_KEY:
            exclude = (*((exclude,) if isinstance(exclude, str) else exclude or ()), "stdout", "log")
        self._logger.record(key, value, exclude)


class Explorer(IntrinsicPPO):
    """Exploratory policy of an :class:`~sb3_ext.IRPO`, whose arguments, environment, step count and logger it uses.

    It begins with the weights of the base policy, and each turn continues its last one. Its extrinsic advantages are divided
    by the range of the returns observed, as the intrinsic ones are by the deviation of theirs: the scale of a task's rewards,
    0.01 for success or -100 for a fall, must not decide whether it explores.

    Args:
        model: the :class:`~sb3_ext.IRPO` to which it belongs.
        reward: its intrinsic reward; all channels have weight 1, each divided by the deviation of its own returns.
        name: name of its logs.
    """

    def __init__(self, model: Any, reward: IntrinsicReward, name: str) -> None:
        self._model = model
        self.name = name
        self.record: UpdateRecord | None = None
        assert model.env is not None
        super().__init__(
            model.policy_class,
            model.env,
            learning_rate=model.learning_rate,
            n_steps=model.n_steps,
            batch_size=model.batch_size,
            n_epochs=model.n_epochs,
            gamma=model.gamma,
            gae_lambda=model.gae_lambda,
            clip_range=model.clip_range,
            clip_range_vf=model.clip_range_vf,
            normalize_advantage=model.normalize_advantage,
            ent_coef=model.ent_coef,
            vf_coef=model.vf_coef,
            max_grad_norm=model.max_grad_norm,
            target_kl=model.target_kl,
            policy_kwargs=model.policy_kwargs,
            device=model.device,
            intrinsic_gamma=model.intrinsic_gamma,
            extrinsic_coef=model.extrinsic_coef,
            intrinsic_coef=model.intrinsic_coef,
            intrinsic_reward=reward,
            intrinsic_weights=[1.0] * reward.n_rewards,
        )
        self.policy.load_state_dict(model.policy.state_dict())
        self.extrinsic_return = ReturnRange(self.gamma).to(self.device)

    @property
    def num_timesteps(self) -> int:
        """Environment steps of the algorithm it belongs to."""
        return self._model.num_timesteps

    @num_timesteps.setter
    def num_timesteps(self, value: int) -> None:
        if value:  # 0: SB3's constructor
            self._model.num_timesteps = value

    @property
    def _current_progress_remaining(self) -> float:
        """Remaining progress of the algorithm it belongs to, for schedules."""
        return self._model._current_progress_remaining

    @_current_progress_remaining.setter
    def _current_progress_remaining(self, value: float) -> None:
        """Ignore the assignment of 1 in SB3's constructor."""

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: Any = None) -> None:
        """Do nothing: ``rollout/ep_rew_mean`` is the base policy's."""

    def begin_turn(self) -> None:
        """Take the progress, the logger and the environment from the algorithm."""
        model = self._model
        self.env = model.env
        self._logger = _PrefixedLogger(model.logger, f"exploration/{self.name}")  # type: ignore[assignment]
        self.intrinsic_reward.forget()
        self.intrinsic_return.forget()
        self.extrinsic_return.forget()

    def fit_reward(self, budget: int) -> None:
        """Fit the intrinsic reward, if it needs to be, on about ``budget`` random steps at most."""
        if self.intrinsic_reward.needs_fit:
            assert self.env is not None
            self._warm_up(max(budget, 4 * self.env.num_envs))  # several rewards share it

    def _scale_extrinsic_advantages(self, rewards: np.ndarray) -> None:
        self.extrinsic_return.update(torch.as_tensor(rewards))
        self.rollout_buffer.advantages /= self.extrinsic_return.scale

    def train(self) -> None:
        """Update by PPO, and record the updates if gradients are pulled back through them."""
        self._update_learning_rate(self.policy.optimizer)
        self.record = None
        if self._model.pull_back:
            clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
            value_range = None if self.clip_range_vf is None else self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
            loss = partial(super()._loss, clip_range=clip_range, clip_range_vf=value_range, logs=defaultdict(list))
            self.record = record_updates(self.policy, loss, self.max_grad_norm)
        super().train()

    def _loss(self, batch: Any, clip_range: float, clip_range_vf: float | None, logs: dict[str, list[float]]) -> Tensor:
        loss = super()._loss(batch, clip_range, clip_range_vf, logs)
        stops = self.target_kl is not None and logs["approx_kl"][-1] > 1.5 * self.target_kl
        if self.record is not None and not stops:
            self.record.minibatches.append(batch)
        return loss

    def extrinsic_gradient(self, sample: IntrinsicRolloutSamples) -> Params:
        """Return the ascent direction of E[π/π_old · Â_E] at this policy, clipped as its updates are, by parameter name.

        Args:
            sample: a whole rollout, from before its last update or after.
        """
        advantages = ppo_losses.normalized(sample.returns - sample.old_values)
        actions = sample.actions.long().flatten() if isinstance(self.action_space, spaces.Discrete) else sample.actions
        log_prob = self.policy.evaluate_both(sample.observations, actions)[2]
        objective = (torch.exp(log_prob - sample.old_log_prob) * advantages).mean()
        parameters = trained_parameters(self.policy)
        found = torch.autograd.grad(objective, list(parameters.values()), allow_unused=True)
        gradient = {
            name: torch.zeros_like(value) if x is None else x
            for (name, value), x in zip(parameters.items(), found, strict=True)
        }
        return clip_by_global_norm(gradient, self.max_grad_norm)

    def lead(self, policy: ActorCriticPolicy, pulled_back: bool) -> dict[str, float]:
        """Move ``policy`` along the extrinsic gradient at this one, after its update, by ``FOLLOW_KL`` at most.

        The rollout is from before the last update and is corrected by importance weights.

        Args:
            policy: the base policy, changed in place.
            pulled_back: whether the gradient is pulled back through that update.

        Returns:
            values to log: ``follow_kl``, the divergence of the step, and, if the gradient is pulled back, its ``cosine`` with
            the gradient at this policy and the ratio of their norms, ``norm_ratio``.
        """
        sample = next(self.rollout_buffer.get())
        gradient = self.extrinsic_gradient(sample)
        direction, log = gradient, {}
        if pulled_back and self.record is not None:
            direction = pull_back(self.record, self.policy, gradient)
            log["cosine"], log["norm_ratio"] = cosine_and_ratio(gradient, direction)
        old = copy.copy(policy.get_distribution(sample.observations))

        def divergence() -> float:
            return divergence_of(old, policy.get_distribution(sample.observations))

        with torch.no_grad():
            log["follow_kl"] = step_to_divergence(trained_parameters(policy), direction, divergence, FOLLOW_KL)
        return log

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser state, intrinsic reward model, scales of returns and number of updates."""
        return {
            "n_updates": self._n_updates,
            "policy": self.policy.state_dict(),
            "optimizer": self.policy.optimizer.state_dict(),
            "intrinsic_reward": self.intrinsic_reward.state_dict(),
            "intrinsic_return": self.intrinsic_return.state_dict(),
            "extrinsic_return": self.extrinsic_return.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Load what :meth:`state_dict` returned."""
        self._n_updates = state["n_updates"]
        self.policy.load_state_dict(state["policy"], strict=strict)
        self.policy.optimizer.load_state_dict(state["optimizer"])
        self.intrinsic_reward.load_state_dict(state["intrinsic_reward"], strict=strict)
        self.intrinsic_return.load_state_dict(state["intrinsic_return"], strict=strict)
        self.extrinsic_return.load_state_dict(state["extrinsic_return"], strict=strict)


class Explorers(list[Explorer]):
    """List of the exploratory policies, saved and loaded together.

    Attributes:
        kept_state: state of a model that was loaded without an environment, until it gets one.
    """

    kept_state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each exploratory policy by its number."""
        if self.kept_state is not None:
            return self.kept_state
        return {str(number): explorer.state_dict() for number, explorer in enumerate(self)}

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Load what :meth:`state_dict` returned, or keep it until there are exploratory policies."""
        if not self:
            self.kept_state = state
            return
        if not state and not strict:  # as torch leaves out what is not there
            return
        if len(state) != len(self):
            raise ValueError(f"Expected the state of {len(self)} exploratory policies, got {len(state)}.")
        for number, explorer in enumerate(self):
            explorer.load_state_dict(state[str(number)], strict)


def automatic_rewards(observation_space: spaces.Space) -> list[Any]:
    """Return the intrinsic rewards that ``intrinsic_reward="auto"`` stands for.

    Countable spaces have one exploratory policy on RND and one on counts. The others have one on RND and visits together:
    counts where states recur, else episodic pseudo-counts, with which no reward was found on the third and fourth maze of the
    ladder within 500 000 steps, while counts fail on continuous states (``examples/results/irpo-ladder``).
    """
    if isinstance(observation_space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return ["rnd", "count"]
    return [["rnd", "visits"]]


def make_channels(
    reward: Any, kwargs: dict[str, Any], observation_space: spaces.Space, action_space: spaces.Space
) -> list[tuple[IntrinsicReward, str]]:
    """Return an intrinsic reward and a name for each exploratory policy.

    Args:
        reward: a name, ``"auto"``, an instance, ``{name: arguments}`` or a list of these, each channel of which makes an
            exploratory policy; a list within the list is one exploratory policy with several rewards.
        kwargs: arguments for a name.
        observation_space: of the environment, beneath any ``VecNormalize``.
        action_space: of the environment.
    """
    if reward == "auto":
        reward = automatic_rewards(observation_space)
    parts = reward if isinstance(reward, (list, tuple)) else [reward]
    channels = []
    for part in parts:
        made = make_intrinsic_reward(part, observation_space, action_space, **(kwargs if part is reward else {}))
        if isinstance(part, (list, tuple)) or made.n_rewards == 1:
            channels.append((made, "+".join(name.rpartition("_")[2] for name in made.channel_names)))
            continue
        channels += [(made.only([number]), name) for number, name in enumerate(made.channel_names)]
    names = [name for _, name in channels]
    return [(made, name if names.count(name) == 1 else f"{name}_{i}") for i, (made, name) in enumerate(channels)]
