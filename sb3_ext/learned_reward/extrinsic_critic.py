"""V^ex, the critic of the extrinsic reward."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import Tensor, nn


class ExtrinsicCritic(nn.Module):
    """V^ex: a separate network with the architecture of the policy's value network.

    Args:
        policy: the policy whose features extractor, layers, activation and initialisation are taken over; it is not changed.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self._space, self._normalize_images = policy.observation_space, policy.normalize_images
        self.features_extractor = policy.make_features_extractor()
        layers = policy.net_arch.get("vf", []) if isinstance(policy.net_arch, dict) else policy.net_arch
        arch: dict[str, list[int]] = {"pi": [], "vf": list(layers)}
        self.mlp_extractor = MlpExtractor(self.features_extractor.features_dim, arch, policy.activation_fn, device="cpu")
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1)
        if policy.ortho_init:
            for module, gain in ((self.features_extractor, np.sqrt(2)), (self.mlp_extractor, np.sqrt(2)), (self.value_net, 1)):
                module.apply(partial(policy.init_weights, gain=gain))

    def forward(self, observations: Any) -> Tensor:
        """Return values ``[n]`` of observations ``[n, …]``."""
        features = self.features_extractor(preprocess_obs(observations, self._space, self._normalize_images))
        return self.value_net(self.mlp_extractor.forward_critic(features)).flatten()
