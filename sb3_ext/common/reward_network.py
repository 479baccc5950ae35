"""A reward that is learned: a network r_η(s, a) trained by a meta-gradient, not by what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
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


class RewardNetwork(nn.Module):
    """r_η(s, a) in (-1, 1): a features extractor, hidden layers, a linear ``head`` and tanh.

    Actions are an input beside the features (continuous ones as they are, others one-hot); with ``Discrete`` actions the head
    has an output for each instead, as LIRPG's has for Atari (arXiv 1804.06459).

    Args:
        net_arch: hidden layers. activation_fn: after each of them.
        features_extractor_class: default SB3's ``NatureCNN`` for images, ``CombinedExtractor`` for dicts, else flattening.
        normalize_images: as in SB3's policies.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        net_arch: Sequence[int] = (64, 64),
        activation_fn: type[nn.Module] = nn.Tanh,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
    ) -> None:
        super().__init__()
        self.observation_space, self.action_space, self.normalize_images = observation_space, action_space, normalize_images
        extractor = features_extractor_class or _default_extractor(observation_space)
        self.features_extractor = extractor(observation_space, **(features_extractor_kwargs or {}))
        self._one_for_each_action = isinstance(action_space, spaces.Discrete)
        n_inputs = self.features_extractor.features_dim + (0 if self._one_for_each_action else _action_width(action_space))
        n_outputs = int(action_space.n) if isinstance(action_space, spaces.Discrete) else 1
        self.hidden = nn.Sequential(*create_mlp(n_inputs, -1, list(net_arch), activation_fn))
        self.head = nn.Linear(net_arch[-1] if net_arch else n_inputs, n_outputs)

    def forward(self, observations: Any, actions: Tensor) -> Tensor:
        """Observations as SB3's buffers hold them ``[n, ...]`` and actions ``[n, n_actions]`` → rewards ``[n]``."""
        features = self.features_extractor(preprocess_obs(observations, self.observation_space, self.normalize_images))
        actions = actions.reshape(len(actions), -1)
        if self._one_for_each_action:
            outputs = self.head(self.hidden(features)).gather(1, actions.long())
        else:
            outputs = self.head(self.hidden(torch.cat([features, self._encoded(actions)], 1)))
        return torch.tanh(outputs[:, 0])

    def _encoded(self, actions: Tensor) -> Tensor:
        space = self.action_space
        if isinstance(space, spaces.MultiDiscrete):
            columns = [functional.one_hot(a.long(), int(n)) for a, n in zip(actions.unbind(1), space.nvec, strict=True)]
            return torch.cat(columns, 1).float()
        return actions.float()


def _action_width(space: spaces.Space) -> int:
    return int(space.nvec.sum()) if isinstance(space, spaces.MultiDiscrete) else get_action_dim(space)


def _default_extractor(space: spaces.Space) -> type[BaseFeaturesExtractor]:
    if isinstance(space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(space) else FlattenExtractor
