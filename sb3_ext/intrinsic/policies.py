"""SB3's actor-critic policies with a second value head, for the intrinsic return."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn


class IntrinsicActorCriticPolicy(ActorCriticPolicy):
    """SB3's ``ActorCriticPolicy`` with an intrinsic value head V_int on the critic's features (arXiv 1810.12894, §2.3).

    ``forward``, ``evaluate_actions`` and ``predict_values`` are SB3's and give the extrinsic value. The head is initialised
    last and leaves the random generator as it was, so all other weights are those of SB3's policy. Arguments are SB3's.
    """

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        with torch.random.fork_rng(devices=[]):
            self.intrinsic_value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1)
            if self.ortho_init:
                self.intrinsic_value_net.apply(partial(self.init_weights, gain=1))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def evaluate_both(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return extrinsic values, intrinsic values, log-probabilities, and entropy (or None), each ``[n]``."""
        features = self.extract_features(obs)
        if self.share_features_extractor:
            latent_pi, latent_vf = self.mlp_extractor(features)
        else:
            latent_pi = self.mlp_extractor.forward_actor(features[0])
            latent_vf = self.mlp_extractor.forward_critic(features[1])
        distribution = self._get_action_dist_from_latent(latent_pi)
        values, intrinsic_values = self.value_net(latent_vf), self.intrinsic_value_net(latent_vf)
        return values.flatten(), intrinsic_values.flatten(), distribution.log_prob(actions), distribution.entropy()

    def predict_intrinsic_values(self, obs: PyTorchObs) -> Tensor:
        """Return the intrinsic values ``[n]``."""
        features = super(ActorCriticPolicy, self).extract_features(obs, self.vf_features_extractor)
        return self.intrinsic_value_net(self.mlp_extractor.forward_critic(features)).flatten()


class CnnPolicy(IntrinsicActorCriticPolicy):
    """Policy with an intrinsic value head for images: SB3's ``NatureCNN`` before actor and critic.

    Args:
        *args: arguments of :class:`IntrinsicActorCriticPolicy`.
        features_extractor_class: as in SB3.
        **kwargs: keyword arguments of :class:`IntrinsicActorCriticPolicy`.
    """

    def __init__(self, *args: Any, features_extractor_class: type = NatureCNN, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)  # type: ignore[misc]


class MultiInputPolicy(IntrinsicActorCriticPolicy):
    """Policy with an intrinsic value head for Dict observations: SB3's ``CombinedExtractor``.

    Args:
        *args: arguments of :class:`IntrinsicActorCriticPolicy`.
        features_extractor_class: as in SB3.
        **kwargs: keyword arguments of :class:`IntrinsicActorCriticPolicy`.
    """

    def __init__(self, *args: Any, features_extractor_class: type = CombinedExtractor, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)  # type: ignore[misc]


MlpPolicy = IntrinsicActorCriticPolicy
