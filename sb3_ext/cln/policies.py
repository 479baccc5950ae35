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

from irwrappers.validation import check_choice
from sb3_ext.cln.layers import ConditionalLayerNorm
from sb3_ext.common.reward_network import RewardNetwork, reward_defaults


class ConditionedExtractor(MlpExtractor):
    """SB3's ``MlpExtractor`` with a :class:`ConditionalLayerNorm` before the activation of the actor's last or all layers.

    ``condition`` ``[n_condition]`` or ``[n, n_condition]`` is what the next call of ``forward_actor`` sees.
    """

    condition: Tensor

    def __init__(
        self,
        feature_dim: int,
        net_arch: list[int] | dict[str, list[int]],
        activation_fn: type[nn.Module],
        n_condition: int,
        everywhere: bool,
        hidden: Sequence[int],
        film: bool,
    ) -> None:
        super().__init__(feature_dim, net_arch, activation_fn, device="cpu")  # moved with the policy
        linears = [layer for layer in self.policy_net if isinstance(layer, nn.Linear)]
        if not linears:
            raise ValueError(f"CLN conditions a hidden layer of the actor, and net_arch={net_arch!r} has none.")
        first = 0 if everywhere else len(linears) - 1
        self._n_plain = 2 * first  # modules of policy_net before the first conditioned layer
        self.norms = nn.ModuleList(
            ConditionalLayerNorm(layer.out_features, n_condition, hidden, film) for layer in linears[first:]
        )

    def conditional_norms(self) -> list[ConditionalLayerNorm]:
        return [norm for norm in self.norms if isinstance(norm, ConditionalLayerNorm)]

    def forward_actor(self, features: Tensor) -> Tensor:
        x = self.policy_net[: self._n_plain](features)
        for i, norm in enumerate(self.norms):
            linear, activation = self.policy_net[self._n_plain + 2 * i], self.policy_net[self._n_plain + 2 * i + 1]
            x = activation(norm(linear(x), self.condition))
        return x


class CLNPolicy(ActorCriticPolicy):
    """``ActorCriticPolicy`` whose actor sees η, the last layer of a reward network (Zhang, Stadie & Ba). The critic does not.

    ``predict`` acts on the present η without noise. The reward network is saved and loaded with the policy, but has no part
    in its optimiser.

    Args:
        net_arch: default 64-64 for both, and 64 after a ``NatureCNN``; the actor needs a hidden layer.
        conditioning: ``"last"`` hidden layer of the actor or ``"all"`` of them.
        conditioner_arch: hidden layers before the gate's and the shift's affine maps.
        film: gate and shift without normalisation.
        reward_kwargs: arguments of :class:`~sb3_ext.common.reward_network.RewardNetwork`, which is not squashed here.

    The others are SB3's.
    """

    mlp_extractor: ConditionedExtractor
    reward_network: RewardNetwork
    # Added to η by forward(), which only a collecting algorithm calls; [n_envs, n_condition].
    collection_noise: Tensor | None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        conditioning: str = "last",
        conditioner_arch: Sequence[int] = (),
        film: bool = False,
        reward_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("conditioning", conditioning, ("last", "all"))
        self.conditioning = conditioning
        self.conditioner_arch = tuple(conditioner_arch)
        self.film = film
        self.reward_kwargs = reward_kwargs or {}
        if net_arch is None and kwargs.get("features_extractor_class") is NatureCNN:
            net_arch = [64]
        super().__init__(observation_space, action_space, lr_schedule, net_arch, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("conditioning", "conditioner_arch", "film", "reward_kwargs")
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in names}

    def _build_mlp_extractor(self) -> None:
        # torch's initialisation, with which it was measured; orthogonal weights begin larger beside η's noise.
        settings = reward_defaults(self, dict(ortho_init=False) | self.reward_kwargs) | dict(squash=False)
        try:
            self.reward_network = RewardNetwork(self.observation_space, self.action_space, **settings)
        except TypeError as error:
            raise ValueError(f"reward_kwargs={self.reward_kwargs} do not fit RewardNetwork: {error}") from error
        self.collection_noise = None
        self.mlp_extractor = ConditionedExtractor(
            self.features_dim,
            self.net_arch,
            self.activation_fn,
            len(self.reward_network.flat_head()),
            self.conditioning == "all",
            self.conditioner_arch,
            self.film,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        for norm in self.mlp_extractor.conditional_norms():
            norm.reset_parameters()  # SB3 initialised them like hidden layers
        self.optimizer = self.optimizer_class(self.own_parameters().values(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Of actor and critic, by name: all but the reward network's."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("reward_network.")}

    def actor_parameters(self) -> dict[str, nn.Parameter]:
        """Those that actions depend on, by name."""
        critics = ("vf_features_extractor.", "mlp_extractor.value_net.", "value_net.")
        own = self.own_parameters().items()
        return {name: value for name, value in own if value.requires_grad and not name.startswith(critics)}

    def eta(self) -> Tensor:
        """The present η ``[n_condition]``, outside any graph."""
        return self.reward_network.flat_head().detach()

    def gate_mean(self) -> float:
        """Mean gate over the conditioned layers at the present η."""
        with torch.no_grad():
            return torch.cat([norm.gate(self.eta()) for norm in self.mlp_extractor.conditional_norms()]).mean().item()

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
        """As SB3's, conditioned on ``condition`` instead of the present η; ``[n_condition]`` or ``[n, n_condition]``."""
        self.mlp_extractor.condition = self.eta() if condition is None else condition
        return super().evaluate_actions(obs, actions)

    def evaluate_actor(self, obs: PyTorchObs, actions: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        """(log-probabilities ``[n]``, entropy ``[n]`` or None), without the critic."""
        self.mlp_extractor.condition = condition
        distribution = super().get_distribution(obs)
        return distribution.log_prob(actions), distribution.entropy()


class CnnPolicy(CLNPolicy):
    """For images: SB3's ``NatureCNN`` before actor and critic."""

    def __init__(self, *args: Any, features_extractor_class: type = NatureCNN, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(CLNPolicy):
    """For Dict observations: SB3's ``CombinedExtractor``."""

    def __init__(self, *args: Any, features_extractor_class: type = CombinedExtractor, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


MlpPolicy = CLNPolicy
