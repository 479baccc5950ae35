"""SB3's actor-critic policies, which LIRPG takes as they are, at other parameters; the critic of the extrinsic reward."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.ppo import CnnPolicy, MlpPolicy, MultiInputPolicy
from torch import Tensor, nn

from sb3_ext.common.optimizers import Params

__all__ = ["CnnPolicy", "ExtrinsicCritic", "FunctionalModule", "MlpPolicy", "MultiInputPolicy"]


class ExtrinsicCritic(nn.Module):
    """V^ex: a network of its own, of the kind that the policy has as its value network."""

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
        """Observations ``[n, …]`` → values ``[n]``."""
        features = self.features_extractor(preprocess_obs(observations, self._space, self._normalize_images))
        return self.value_net(self.mlp_extractor.forward_critic(features)).flatten()


class FunctionalModule:
    """A module's methods as functions of its trainable parameters, by name.

    ``torch.func.functional_call`` for any method, and the places of the parameters looked up once: it is called twice for each
    minibatch.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.params: Params = {name: value for name, value in module.named_parameters() if value.requires_grad}
        modules = dict(module.named_modules())
        places = {name: name.rpartition(".") for name in self.params}
        self._places = {name: (modules[module]._parameters, last) for name, (module, _, last) in places.items()}

    def at(self, params: Params, method: str, *args: Any) -> Any:
        """``module.method(*args)`` with these parameters in place of its own."""
        self._set(params)
        try:
            return getattr(self.module, method)(*args)
        finally:
            self._set(self.params)

    def _set(self, params: Params) -> None:
        for name, value in params.items():
            place, last = self._places[name]
            place[last] = value
