"""SB3's actor-critic policies with an actor that is conditioned on the last layer of a reward network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, MlpExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_ext.cln.layers import ConditionalLayerNorm
from sb3_ext.learned_reward.reward_network import RewardNetwork, make_reward_network


class ConditionedExtractor(MlpExtractor):
    """SB3's ``MlpExtractor`` with a :class:`ConditionalLayerNorm` before the activation of the actor's last layer.

    Args:
        feature_dim: number of features.
        net_arch: sizes of the layers of actor and critic, as in SB3.
        activation_fn: activation after each layer.
        n_condition: size of η.
        conditioner_arch: sizes of hidden layers before the affine maps of η.
        film: whether there is no normalisation.

    Attributes:
        condition: η ``[n_condition]`` or ``[n, n_condition]`` of the next call of ``forward_actor``.
    """

    condition: Tensor

    def __init__(
        self,
        feature_dim: int,
        net_arch: list[int] | dict[str, list[int]],
        activation_fn: type[nn.Module],
        n_condition: int,
        conditioner_arch: Sequence[int],
        film: bool,
    ) -> None:
        super().__init__(feature_dim, net_arch, activation_fn, device="cpu")  # moved with the policy
        linears = [layer for layer in self.policy_net if isinstance(layer, nn.Linear)]
        if not linears:
            raise ValueError(f"CLN conditions a hidden layer of the actor, and net_arch={net_arch!r} has none.")
        self.norm = ConditionalLayerNorm(linears[-1].out_features, n_condition, conditioner_arch, film)

    def forward_actor(self, features: Tensor) -> Tensor:
        *before, activation = self.policy_net
        for layer in before:
            features = layer(features)
        return activation(self.norm(features, self.condition))


class CLNPolicy(ActorCriticPolicy):
    """``ActorCriticPolicy`` whose actor sees η, the last layer of a reward network (Zhang, Stadie & Ba). The critic does not.

    ``predict`` uses the present η without noise. The reward network is saved and loaded with the policy, but its parameters
    are not in the policy's optimiser.

    Args:
        observation_space: of the environment.
        action_space: of the environment.
        lr_schedule: learning rate of the policy's optimiser.
        net_arch: layers of actor and critic; default 64-64 for both, and 64 after a ``NatureCNN``. The actor needs a layer.
        conditioner_arch: sizes of hidden layers before the gate's and the shift's affine maps.
        film: whether gate and shift act without normalisation.
        reward_network_kwargs: arguments of :class:`~sb3_ext.learned_reward.RewardNetwork`, which is not squashed here.
        **kwargs: further arguments of SB3's ``ActorCriticPolicy``.
    """

    mlp_extractor: ConditionedExtractor
    reward_network: RewardNetwork
    # [n_envs, n_condition], added to η by forward(), which SB3 calls only to collect rollouts.
    collection_noise: Tensor | None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        conditioner_arch: Sequence[int] = (),
        film: bool = False,
        reward_network_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.conditioner_arch = tuple(conditioner_arch)
        self.film = film
        if "squash" in (reward_network_kwargs or {}):
            raise ValueError("reward_network_kwargs must not have squash: the reward of CLN is linear in η.")
        self.reward_network_kwargs = reward_network_kwargs
        if net_arch is None and kwargs.get("features_extractor_class") is NatureCNN:
            net_arch = [64]
        super().__init__(observation_space, action_space, lr_schedule, net_arch, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("conditioner_arch", "film", "reward_network_kwargs")
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in names}

    def _build_mlp_extractor(self) -> None:
        # torch's initialisation, because orthogonal weights are larger beside η's noise.
        self.reward_network = make_reward_network(self, self.reward_network_kwargs, ortho_init=False, squash=False)
        self.collection_noise = None
        self.mlp_extractor = ConditionedExtractor(
            self.features_dim,
            self.net_arch,
            self.activation_fn,
            len(self.reward_network.flat_head()),
            self.conditioner_arch,
            self.film,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.mlp_extractor.norm.reset_parameters()  # SB3 has initialised it like a hidden layer
        self.optimizer = self.optimizer_class(self.own_parameters().values(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of actor and critic by name, without those of the reward network."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("reward_network.")}

    def actor_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters that actions depend on, by name."""
        critics = ("vf_features_extractor.", "mlp_extractor.value_net.", "value_net.")
        own = self.own_parameters().items()
        return {name: value for name, value in own if value.requires_grad and not name.startswith(critics)}

    def eta(self) -> Tensor:
        """Return the present η ``[n_condition]``, outside any graph."""
        return self.reward_network.flat_head().detach()

    def gate_mean(self) -> float:
        """Return the mean gate at the present η."""
        with torch.no_grad():
            return self.mlp_extractor.norm.gate(self.eta()).mean().item()

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        eta = self.eta()
        self.mlp_extractor.condition = eta if self.collection_noise is None else eta + self.collection_noise
        return super().forward(obs, deterministic)

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        self.mlp_extractor.condition = self.eta()
        return super().get_distribution(obs)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values, log-probabilities and entropy as SB3's policies do.

        Args:
            obs: observations ``[n, …]``.
            actions: ``[n, …]``.
            condition: ``[n_condition]`` or ``[n, n_condition]`` in place of the present η.
        """
        self.mlp_extractor.condition = self.eta() if condition is None else condition
        return super().evaluate_actions(obs, actions)

    def evaluate_actor(self, obs: PyTorchObs, actions: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return log-probabilities ``[n]`` and entropy (``[n]`` or None), without the critic.

        Args:
            obs: observations ``[n, …]``.
            actions: ``[n, …]``.
            condition: ``[n_condition]`` or ``[n, n_condition]`` in place of the present η.
        """
        self.mlp_extractor.condition = condition
        distribution = super().get_distribution(obs)
        return distribution.log_prob(actions), distribution.entropy()


class CnnPolicy(CLNPolicy):
    """Policy for images, with SB3's ``NatureCNN``.

    Args:
        *args: positional arguments of :class:`CLNPolicy`.
        features_extractor_class: features extractor before actor and critic.
        **kwargs: keyword arguments of :class:`CLNPolicy`.
    """

    def __init__(self, *args: Any, features_extractor_class: type = NatureCNN, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(CLNPolicy):
    """Policy for Dict observations, with SB3's ``CombinedExtractor``.

    Args:
        *args: positional arguments of :class:`CLNPolicy`.
        features_extractor_class: features extractor before actor and critic.
        **kwargs: keyword arguments of :class:`CLNPolicy`.
    """

    def __init__(self, *args: Any, features_extractor_class: type = CombinedExtractor, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


MlpPolicy = CLNPolicy
