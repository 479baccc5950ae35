"""The learned reward of a LIRPG or CLN model as an intrinsic reward."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torch.utils._pytree import tree_map

from irwrappers import IntrinsicReward, Transitions
from sb3_ext.learned_reward.reward_network import RewardNetwork, clip_actions


class FrozenReward(IntrinsicReward):
    """The learned reward r_η(s, a) of ``model`` with fixed parameters, for plots or as the reward of another agent.

    It takes unnormalised observations: the statistics of a ``VecNormalize`` around the model's environment are copied (a
    model that was loaded without an environment has none). Box actions are clipped to the bounds of the action space.

    Args:
        model: a ``LIRPG``, ``LIRPGA2C`` or ``CLN`` model; it may go on training, the copied reward does not change.
        greedy: whether the reward is that of the model's own deterministic action instead of the action that was taken, for
            plots over states.

    Raises:
        ValueError: a model without a learned reward.

    >>> from sb3_ext import CLN
    >>> from irwrappers import VecIntrinsicReward
    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> model = CLN("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu")
    >>> env = make_vec_env("CartPole-v1", n_envs=2)
    >>> env = VecIntrinsicReward(env, FrozenReward(model), extrinsic_coef=0.0)  # for a new agent
    """

    n_rewards = 1

    def __init__(self, model: OnPolicyAlgorithm, greedy: bool = False) -> None:
        network = getattr(model, "reward_network", None)
        if not isinstance(network, RewardNetwork):
            raise ValueError(f"FrozenReward takes a model that has learned a reward (LIRPG, LIRPGA2C, CLN), got {model}.")
        super().__init__(model.observation_space, model.action_space)
        self.network = deepcopy(network).requires_grad_(False)
        self.policy = _copy(model.policy) if greedy else None
        self._squashed = model.policy.squash_output
        self._normalize = _Normalization.of(model.get_vec_normalize_env())

    @torch.no_grad()
    def compute(self, batch: Transitions) -> Tensor:
        """Return r_η of each step, ``[T, B, 1]``."""
        steps = batch.terminated.shape
        observations = self._normalize(tree_map(lambda part: part.flatten(0, 1), batch.observations))
        if self.policy is None:
            actions = self._as_trained_on(batch.actions.flatten(0, 1), from_policy=False)
        else:
            actions = self._as_trained_on(self.policy.get_distribution(observations).mode(), from_policy=True)
        return self.network(observations, actions).view(*steps, 1)

    def _as_trained_on(self, actions: Tensor, from_policy: bool) -> Tensor:
        """Return Box actions clipped to the environment's bounds or, for a policy that squashes its actions, in [-1, 1]."""
        if not isinstance(self.action_space, spaces.Box) or (self._squashed and from_policy):
            return actions
        actions = clip_actions(actions, self.action_space)
        if not self._squashed:
            return actions
        low, high = (torch.as_tensor(x, device=actions.device) for x in (self.action_space.low, self.action_space.high))
        return (2 * (actions.view(-1, *low.shape) - low) / (high - low) - 1).view(actions.shape)


def _copy(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """Return a copy by way of the state dict: ``deepcopy`` fails on tensors that training left attached to a graph."""
    with torch.random.fork_rng(devices=[]):
        result = type(policy)(**policy._get_constructor_parameters()).to(policy.device)
    result.load_state_dict(policy.state_dict())
    return result.requires_grad_(False)


@dataclass
class _Normalization:
    """The normalisation of observations by a ``VecNormalize``, without the environment that it wraps."""

    statistics: dict[str | None, RunningMeanStd]  # by key for the normalised entries of a dict; by None for an array
    epsilon: float = 0.0
    clip: float = 0.0

    @classmethod
    def of(cls, normalize: VecNormalize | None) -> _Normalization:
        if normalize is None or not normalize.norm_obs:
            return cls({})
        statistics = deepcopy(normalize.obs_rms)
        by_name = statistics if isinstance(statistics, dict) else {None: statistics}
        return cls(dict(by_name), normalize.epsilon, normalize.clip_obs)

    def __call__(self, observations: Any) -> Any:
        if isinstance(observations, dict):
            return {name: self._normalized(part, self.statistics.get(name)) for name, part in observations.items()}
        return self._normalized(observations, self.statistics.get(None))

    def _normalized(self, part: Tensor, statistics: RunningMeanStd | None) -> Tensor:
        if statistics is None:
            return part
        mean, var = (torch.as_tensor(x, device=part.device) for x in (statistics.mean, statistics.var))
        return torch.clamp((part - mean) / torch.sqrt(var + self.epsilon), -self.clip, self.clip).float()
