"""Replay buffers that price an intrinsic reward when a batch is sampled, for SAC, TD3, DDPG and DQN."""

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
from sb3_ext.intrinsic.channels import make_bonus

MEAN_SQUARE_DECAY = 0.99


class IntrinsicReplayBuffer(ReplayBuffer):
    """SB3's ``ReplayBuffer``, whose samples pay extrinsic_coef · r + coef · Σ_k w_k r_int,k / rms_k.

    ``SAC("MlpPolicy", env, replay_buffer_class=IntrinsicReplayBuffer, replay_buffer_kwargs=dict(intrinsic_reward="rnd"))``

    The intrinsic reward of a transition is computed each time it is sampled, so that what has become familiar since is no
    longer paid for; the buffer stores the environment's reward only. The model learns from sampled batches, every
    ``learn_every`` of them, before they are priced: it finds novel what is rare in the buffer. What a model remembers
    without learning (counts) it takes in once, when a transition is added.

    Sampled transitions have no order of time, so there is no return whose deviation could set the scale, as RND has it. Each
    channel is divided by its root mean square instead, a moving average over some 100 batches: a predictor that sees every
    batch soon errs a thousand times less than at first, and what counts is how novel a transition is beside the others of the
    buffer. The bonus therefore doesn't fade by itself; lower ``coef`` in a callback where it should. Rewards that depend on
    what happened before in the episode cannot be priced this way and are refused.

    With ``VecNormalize`` the model sees original observations and the bonus is added after reward normalisation; with
    ``optimize_memory_usage`` it sees, as SB3's algorithms do, the first observation of the next episode as the successor of
    the last of an episode. Box actions are those SB3 stores, scaled to [-1, 1]. ``model.save_replay_buffer`` pickles the
    reward model with the transitions; ``model.save`` saves neither, as SB3 does.

    Args:
        intrinsic_reward: a name (``irwrappers.make_intrinsic_reward``), an instance, ``{name: arguments}`` or a list of these.
        intrinsic_reward_kwargs: arguments for a name.
        weights: w_k, of the reward's channels. Default: 1 each; the signed pairs of ALLO, ExactLaplacian and
            RandomNetworkReward would cancel and need them.
        coef: of the intrinsic reward; may be changed while training. 0: SB3's ``ReplayBuffer``.
        extrinsic_coef: of the environment's reward.
        learn_every: sampled batches from one learning step of the reward model to the next.

    The others are SB3's.

    Attributes:
        log: what the model last logged and ``reward_mean``, the last batch's mean bonus before ``coef``.

    Raises:
        ValueError: for an argument out of range, a reward that cannot be priced, and NaN or infinite intrinsic rewards.
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
        intrinsic_reward: str | IntrinsicReward | dict[str, dict[str, Any]] | list[Any] = "rnd",
        intrinsic_reward_kwargs: dict[str, Any] | None = None,
        weights: Sequence[float] | None = None,
        coef: float = 1.0,
        extrinsic_coef: float = 1.0,
        learn_every: int = 1,
    ) -> None:
        check_range("coef", coef, 0)
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
        made = make_bonus(intrinsic_reward, intrinsic_reward_kwargs, weights, observation_space, action_space, who)
        reward, self._weights = made[0], made[1].to(self.device)
        _check_priceable(reward, who)
        self.intrinsic_reward = reward.to(self.device)
        self.coef = coef
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
        if self.coef == 0 and self.extrinsic_coef == 1:
            return super()._get_samples(batch_inds, env)
        samples = super()._get_samples(batch_inds)  # original observations and rewards
        rewards = samples.rewards
        if env is not None:
            rewards = self.to_torch(self._normalize_reward(rewards.cpu().numpy(), env))
        total = self.extrinsic_coef * rewards
        if self.coef > 0:
            total = total + self.coef * self._price(samples)
        if env is None:
            return samples._replace(rewards=total)
        seen = [
            tree_map(self.to_torch, self._normalize_obs(tree_map(lambda x: x.cpu().numpy(), observations), env))
            for observations in (samples.observations, samples.next_observations)
        ]
        return samples._replace(observations=seen[0], next_observations=seen[1], rewards=total)

    def _price(self, samples: Any) -> Tensor:
        """``[n, 1]``."""
        terminated = samples.dones.flatten().bool()
        never = torch.zeros_like(terminated)
        parts = (samples.observations, samples.actions, samples.next_observations, terminated, never)
        if self._n_sampled % self.learn_every == 0:
            # As n steps of one copy: the share of a batch that RND's predictor takes falls with the number of copies.
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
        """SB3's rows ``[n, …]`` as one step of n copies, ``[1, n, …]``, or as n steps of one."""
        actions = actions.reshape(len(actions), *self.action_space.shape)  # type: ignore[misc]
        parts = (self._as_given(observations), actions, self._as_given(next_observations), terminated, truncated)
        return Transitions(*tree_map(lambda x: x.unsqueeze(1 if along_time else 0), parts))

    def _as_given(self, observations: Any) -> Any:
        """Without the axis that SB3 gives to discrete observations."""
        if isinstance(self.observation_space, spaces.Dict):
            parts = self.observation_space.spaces
            return {key: x.reshape(len(x), *parts[key].shape) for key, x in observations.items()}  # type: ignore[misc]
        return observations.reshape(len(observations), *self.observation_space.shape)  # type: ignore[misc]

    @property
    def device(self) -> torch.device:
        return self._device

    @device.setter
    def device(self, device: torch.device) -> None:
        """SB3 sets it on a buffer that it has loaded: the model moves along."""
        self._device = device
        if hasattr(self, "intrinsic_reward"):
            _move(self.intrinsic_reward, device)
            self._weights = self._weights.to(device)
            self._mean_square = None if self._mean_square is None else self._mean_square.to(device)

    def __getstate__(self) -> dict[str, Any]:
        """Tensors on the CPU, so that a machine without the accelerator can load them."""
        cpu = torch.device("cpu")
        moved = _move(copy.deepcopy(self.intrinsic_reward), cpu)
        scale = None if self._mean_square is None else self._mean_square.cpu()
        return self.__dict__ | dict(intrinsic_reward=moved, _mean_square=scale, _weights=self._weights.cpu(), _device=cpu)


class IntrinsicDictReplayBuffer(IntrinsicReplayBuffer, DictReplayBuffer):
    """The same for Dict observations (``MultiInputPolicy``)."""


def _move(reward: IntrinsicReward, device: torch.device) -> IntrinsicReward:
    reward.to(device)
    reward.load_state_dict(reward.state_dict())  # optimisers take their state to where the parameters are
    return reward


def _check_priceable(reward: IntrinsicReward, who: str) -> None:
    for part in reward.modules():
        if not isinstance(part, IntrinsicReward):
            continue
        name = type(part).__name__
        if part.has_episode_memory:
            raise ValueError(
                f"{who} prices single transitions from anywhere in the past, and what {name} pays depends on what came before "
                "in the same episode. Use a reward without such a memory (rnd, drnd, icm, disagreement, count, …), or "
                "VecIntrinsicReward around the environment, which pays while the episode runs."
            )
        if isinstance(part, FeatureDifference) and part.needs_fit:
            raise ValueError(
                f"{name} must be trained before it can pay, and {who} has no environment: build it, call its fit(env, steps), "
                "and give the instance."
            )
