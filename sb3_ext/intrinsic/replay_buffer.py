"""Replay buffers that compute an intrinsic reward when a batch is sampled, for SAC, TD3, DDPG and DQN."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torch.utils._pytree import tree_map

from irwrappers import IntrinsicReward, Transitions
from irwrappers.intrinsic.features import FeatureDifference
from irwrappers.transitions import EpisodeEnds
from irwrappers.validation import check_range
from sb3_ext.intrinsic.channels import make_weighted_reward

MEAN_SQUARE_DECAY = 0.99


class IntrinsicReplayBuffer(ReplayBuffer):
    """SB3's ``ReplayBuffer`` with sampled rewards extrinsic_coef · r + intrinsic_coef · Σ_k w_k r_int,k / rms_k.

    ``SAC("MlpPolicy", env, replay_buffer_class=IntrinsicReplayBuffer, replay_buffer_kwargs=dict(intrinsic_reward="rnd"))``

    The intrinsic reward of a transition is computed each time it is sampled, so that it falls as the transition becomes
    familiar; the buffer stores the environment's reward only. The model learns from every ``learn_every``-th sampled batch
    before the rewards of that batch are computed: transitions that are rare in the buffer are novel to it. Models that
    count instead of learning are updated once, when a transition is added.

    Sampled transitions have no order in time, so there is no return whose deviation could be the scale, as in RND. Each
    channel is divided by its root mean square instead, a moving average over some 100 batches: the error of a predictor that
    sees every batch soon falls by a factor of a thousand, and the reward is the novelty of a transition relative to others in
    the buffer. It therefore doesn't decrease by itself; lower ``intrinsic_coef`` in a callback if it should. Rewards that
    depend on earlier steps of the episode cannot be computed this way and are refused.

    With ``VecNormalize`` the model sees original observations (the last of an episode within ``clip_obs``) and the intrinsic
    reward is added after reward normalisation; with ``optimize_memory_usage`` it sees, as SB3's algorithms do, the first
    observation of the next episode as the successor of the last of an episode. Box actions are those SB3 stores, scaled to
    [-1, 1].
    ``model.save_replay_buffer`` pickles the reward model with the transitions; ``model.save`` saves neither, as SB3 does.

    Args:
        buffer_size: as in SB3.
        observation_space: as in SB3.
        action_space: as in SB3.
        device: as in SB3; the reward model is on it too.
        n_envs: as in SB3.
        optimize_memory_usage: as in SB3.
        handle_timeout_termination: as in SB3.
        intrinsic_reward: a name (``irwrappers.make_intrinsic_reward``), an instance, ``{name: arguments}`` or a list of these.
        intrinsic_reward_kwargs: arguments for a name.
        intrinsic_weights: w_k, weights of the reward's channels. Default: 1 each; the signed pairs of ALLO, ExactLaplacian and
            RandomNetworkReward would cancel and need them.
        intrinsic_coef: weight of the intrinsic reward; may be changed while training. 0: SB3's ``ReplayBuffer``.
        extrinsic_coef: weight of the environment's reward.
        learn_every: sampled batches from one learning step of the reward model to the next.

    Attributes:
        log: last logs of the model and ``reward_mean``, the last batch's mean intrinsic reward before ``intrinsic_coef``.

    Raises:
        ValueError: for an argument out of range, a reward that depends on the episode, and NaN or infinite intrinsic rewards.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        intrinsic_reward: str | IntrinsicReward | dict[str, dict[str, Any]] | list[Any] = "rnd",
        intrinsic_reward_kwargs: dict[str, Any] | None = None,
        intrinsic_weights: Sequence[float] | None = None,
        intrinsic_coef: float = 1.0,
        extrinsic_coef: float = 1.0,
        learn_every: int = 1,
    ) -> None:
        check_range("intrinsic_coef", intrinsic_coef, 0)
        check_range("extrinsic_coef", extrinsic_coef, 0)
        check_range("learn_every", learn_every, 1, integer=True)
        who = type(self).__name__
        if isinstance(observation_space, spaces.Dict) is not isinstance(self, DictReplayBuffer):
            right = "IntrinsicReplayBuffer" if isinstance(self, DictReplayBuffer) else "IntrinsicDictReplayBuffer"
            raise ValueError(f"{who} cannot hold observations of {observation_space}; use {right}.")
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs=n_envs,
            optimize_memory_usage=optimize_memory_usage,
            handle_timeout_termination=handle_timeout_termination,
        )
        reward, channel_weights = make_weighted_reward(
            intrinsic_reward, intrinsic_reward_kwargs, intrinsic_weights, observation_space, action_space, who
        )
        _check_supported(reward, who)
        self._weights = channel_weights.to(self.device)
        self.intrinsic_reward = reward.to(self.device)
        self.intrinsic_coef = intrinsic_coef
        self.extrinsic_coef = extrinsic_coef
        self.learn_every = learn_every
        self.log: dict[str, float] = {}
        self._mean_square: Tensor | None = None  # [n_rewards]
        self._n_sampled = 0

    def add(self, obs: Any, next_obs: Any, action: np.ndarray, reward: np.ndarray, done: np.ndarray, infos: Any) -> None:
        super().add(obs, next_obs, action, reward, done, infos)
        ends = EpisodeEnds(done, infos)
        step = (obs, action, next_obs, ends.terminated, ends.truncated)
        self.intrinsic_reward.advance(self._transitions(*tree_map(lambda x: self.to_torch(np.asarray(x)), step)))

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        if self.intrinsic_coef == 0 and self.extrinsic_coef == 1:
            return super()._get_samples(batch_inds, env)
        samples = super()._get_samples(batch_inds)  # original observations and rewards
        rewards = samples.rewards
        if env is not None:
            rewards = self.to_torch(self._normalize_reward(rewards.cpu().numpy(), env))
        total = self.extrinsic_coef * rewards
        if self.intrinsic_coef > 0:
            total = total + self.intrinsic_coef * self._compute_intrinsic_rewards(samples)
        if env is None:
            return samples._replace(rewards=total)
        seen = [
            tree_map(self.to_torch, self._normalize_obs(tree_map(lambda x: x.cpu().numpy(), observations), env))
            for observations in (samples.observations, samples.next_observations)
        ]
        return samples._replace(observations=seen[0], next_observations=seen[1], rewards=total)

    def _compute_intrinsic_rewards(self, samples: Any) -> Tensor:
        """Return the weighted sum of the channels for a batch, ``[n, 1]``; the model may learn from the batch before."""
        terminated = samples.dones.flatten().bool()
        never = torch.zeros_like(terminated)
        parts = (samples.observations, samples.actions, samples.next_observations, terminated, never)
        if self._n_sampled % self.learn_every == 0:
            # As n steps of one environment: RND's predictor learns from a share of a batch that falls with their number.
            self.log.update(self.intrinsic_reward.learn(self._transitions(*parts, along_time=True)))
        self._n_sampled += 1
        rewards = self.intrinsic_reward.compute(self._transitions(*parts))[0]  # [n, channels]
        if not rewards.isfinite().all():
            raise ValueError(
                f"The intrinsic reward {type(self.intrinsic_reward).__name__} gave NaN or infinite values; look for such "
                "observations (SB3's VecCheckNan finds the step), and at the reward's learning rate."
            )
        now = rewards.square().mean(0)
        self._mean_square = now if self._mean_square is None else now.lerp(self._mean_square, MEAN_SQUARE_DECAY)
        bonus = rewards / (self._mean_square.sqrt() + 1e-8) @ self._weights
        self.log["reward_mean"] = float(bonus.mean())
        return bonus[:, None]

    def _transitions(
        self,
        observations: Any,
        actions: Tensor,
        next_observations: Any,
        terminated: Tensor,
        truncated: Tensor,
        along_time: bool = False,
    ) -> Transitions:
        """Return SB3's rows ``[n, …]`` as one step of n environments, ``[1, n, …]``, or as n steps of one environment."""
        actions = actions.reshape(len(actions), *self.action_space.shape)  # type: ignore[misc]
        parts = (self._as_given(observations), actions, self._as_given(next_observations), terminated, truncated)
        return Transitions(*tree_map(lambda x: x.unsqueeze(1 if along_time else 0), parts))

    def _as_given(self, observations: Any) -> Any:
        """Return observations without the axis that SB3 adds to discrete ones."""
        if isinstance(self.observation_space, spaces.Dict):
            parts = self.observation_space.spaces
            return {key: x.reshape(len(x), *parts[key].shape) for key, x in observations.items()}  # type: ignore[misc]
        return observations.reshape(len(observations), *self.observation_space.shape)  # type: ignore[misc]

    @property
    def device(self) -> torch.device:
        """Device of samples and of the reward model."""
        return self._device

    @device.setter
    def device(self, device: torch.device) -> None:
        """Move the reward model too: SB3 sets the device of a buffer that it has loaded."""
        self._device = device
        if hasattr(self, "intrinsic_reward"):
            _move(self.intrinsic_reward, device)
            self._weights = self._weights.to(device)
            self._mean_square = None if self._mean_square is None else self._mean_square.to(device)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with tensors on the CPU, so that a machine without the accelerator can load it."""
        cpu = torch.device("cpu")
        moved = _move(copy.deepcopy(self.intrinsic_reward), cpu)
        scale = None if self._mean_square is None else self._mean_square.cpu()
        return self.__dict__ | dict(intrinsic_reward=moved, _mean_square=scale, _weights=self._weights.cpu(), _device=cpu)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load a state; in earlier versions ``intrinsic_coef`` was called ``coef``."""
        if "coef" in state:
            state = {**state, "intrinsic_coef": state["coef"]}
            del state["coef"]
        self.__dict__.update(state)


class IntrinsicDictReplayBuffer(IntrinsicReplayBuffer, DictReplayBuffer):
    """:class:`IntrinsicReplayBuffer` for Dict observations (``MultiInputPolicy``)."""


def _move(reward: IntrinsicReward, device: torch.device) -> IntrinsicReward:
    reward.to(device)
    reward.load_state_dict(reward.state_dict())  # loading moves the state of optimisers to the parameters' device
    return reward


def _check_supported(reward: IntrinsicReward, who: str) -> None:
    """Raise ValueError for a reward that can't be computed from single transitions, or that needs an environment first."""
    for part in reward.modules():
        if not isinstance(part, IntrinsicReward):
            continue
        name = type(part).__name__
        if part.has_episode_memory:
            raise ValueError(
                f"{who} computes rewards of single transitions sampled from the past, and the reward of {name} depends on "
                "earlier steps of the same episode. Use a reward without such a memory (rnd, drnd, icm, disagreement, count) "
                "or VecIntrinsicReward around the environment, which computes rewards during the episode."
            )
        if isinstance(part, FeatureDifference) and part.needs_fit:
            raise ValueError(
                f"{name} must be fitted before its rewards can be computed, and {who} has no environment: build it, call its "
                "fit(env, steps), and give the instance."
            )
