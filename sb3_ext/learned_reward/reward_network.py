"""The network r_η(s, a) of a learned reward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim, is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from torch import Tensor, nn
from torch.nn import functional


class Tanh(nn.Tanh):
    """tanh x as 2 σ(2x) − 1, exact to 2e-7; on a CPU torch's tanh takes three times as long."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(2 * x) - 1


class RewardNetwork(nn.Module):
    """r_η(s, a): a features extractor, hidden layers, a linear ``head`` and, if squashed into (-1, 1), tanh.

    Actions are an input beside the features (continuous ones as they are, others one-hot); with ``Discrete`` actions the head
    has one output for each instead, as LIRPG's has for Atari (arXiv 1804.06459).

    Args:
        observation_space: of the policy.
        action_space: of the policy.
        net_arch: sizes of the hidden layers.
        activation_fn: activation after each hidden layer.
        features_extractor_class: default SB3's ``NatureCNN`` for images, ``CombinedExtractor`` for dicts, else flattening.
        features_extractor_kwargs: arguments of the features extractor.
        normalize_images: whether images are divided by 255, as in SB3's policies.
        squash: whether rewards are squashed into (-1, 1). Without it r_η is linear in the head, and can match sums of rewards
            of any size.
        ortho_init: whether weights are initialised orthogonally, as in SB3's policies.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        net_arch: Sequence[int] = (64, 64),
        activation_fn: type[nn.Module] = Tanh,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        squash: bool = True,
        ortho_init: bool = True,
    ) -> None:
        super().__init__()
        self.observation_space, self.action_space, self.normalize_images = observation_space, action_space, normalize_images
        self.squash = squash
        extractor = features_extractor_class or _default_extractor(observation_space)
        self.features_extractor = extractor(observation_space, **(features_extractor_kwargs or {}))
        self._one_for_each_action = isinstance(action_space, spaces.Discrete)
        n_inputs = self.features_extractor.features_dim + (0 if self._one_for_each_action else _action_width(action_space))
        n_outputs = int(action_space.n) if isinstance(action_space, spaces.Discrete) else 1
        self.hidden = nn.Sequential(*create_mlp(n_inputs, -1, list(net_arch), activation_fn))
        self.head = nn.Linear(net_arch[-1] if net_arch else n_inputs, n_outputs)
        if ortho_init:
            for module, gain in ((self.features_extractor, 2**0.5), (self.hidden, 2**0.5), (self.head, 1.0)):
                module.apply(partial(ActorCriticPolicy.init_weights, gain=gain))

    def forward(self, observations: Any, actions: Tensor) -> Tensor:
        """Return rewards ``[n]`` of observations as SB3's buffers hold them ``[n, ...]`` and actions ``[n, n_actions]``."""
        outputs = self.head(self._hidden_features(observations, actions))
        if self._one_for_each_action:
            outputs = outputs.gather(1, actions.reshape(-1, 1).long())
        return torch.tanh(outputs[:, 0]) if self.squash else outputs[:, 0]

    def flat_head(self) -> Tensor:
        """Return the head's weights, row by row, and then its bias, ``[n_head]``: CLN's η."""
        return torch.cat([self.head.weight.flatten(), self.head.bias])

    def head_inputs(self, observations: Any, actions: Tensor) -> Tensor:
        """Return x ``[n, n_head]`` such that ``x @ flat_head()`` are the rewards (before tanh, if they are squashed)."""
        hidden = self._hidden_features(observations, actions)
        if not self._one_for_each_action:
            return torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1)
        chosen = functional.one_hot(actions.reshape(-1).long(), self.head.out_features).to(hidden.dtype)
        return torch.cat([(chosen[:, :, None] * hidden[:, None, :]).flatten(1), chosen], 1)

    def _hidden_features(self, observations: Any, actions: Tensor) -> Tensor:
        features = self.features_extractor(preprocess_obs(observations, self.observation_space, self.normalize_images))
        if self._one_for_each_action:
            return self.hidden(features)
        return self.hidden(torch.cat([features, self._encoded(actions.reshape(len(actions), -1))], 1))

    def _encoded(self, actions: Tensor) -> Tensor:
        space = self.action_space
        if isinstance(space, spaces.MultiDiscrete):
            columns = [functional.one_hot(a.long(), int(n)) for a, n in zip(actions.unbind(1), space.nvec, strict=True)]
            return torch.cat(columns, 1).float()
        return actions.float()


def make_reward_network(
    policy: ActorCriticPolicy, reward_network_kwargs: dict[str, Any] | None, **defaults: Any
) -> RewardNetwork:
    """Return a reward network for ``policy``.

    Args:
        policy: the policy whose spaces, features extractor and initialisation the network has by default.
        reward_network_kwargs: arguments of :class:`RewardNetwork` that the user chose.
        **defaults: arguments of :class:`RewardNetwork` where the user chose none.

    Raises:
        ValueError: an argument that ``RewardNetwork`` does not have.
    """
    given = defaults | (reward_network_kwargs or {})
    arguments: dict[str, Any] = dict(normalize_images=policy.normalize_images, ortho_init=policy.ortho_init)
    if "features_extractor_class" not in given:
        arguments["features_extractor_class"] = policy.features_extractor_class
        arguments["features_extractor_kwargs"] = policy.features_extractor_kwargs
    try:
        return RewardNetwork(policy.observation_space, policy.action_space, **arguments | given)
    except TypeError as error:
        raise ValueError(f"reward_network_kwargs={reward_network_kwargs} do not fit RewardNetwork: {error}") from error


def clip_actions(actions: Tensor, space: spaces.Space) -> Tensor:
    """Return actions ``[n, …]`` clipped to the bounds of a ``Box``, or as they are in another space."""
    if not isinstance(space, spaces.Box):
        return actions
    low, high = (torch.as_tensor(x, device=actions.device) for x in (space.low, space.high))
    return torch.clamp(actions.view(-1, *low.shape), low, high).view(actions.shape)


def _action_width(space: spaces.Space) -> int:
    return int(space.nvec.sum()) if isinstance(space, spaces.MultiDiscrete) else get_action_dim(space)


def _default_extractor(space: spaces.Space) -> type[BaseFeaturesExtractor]:
    if isinstance(space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(space) else FlattenExtractor
