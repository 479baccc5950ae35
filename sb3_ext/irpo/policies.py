"""Policies of IRPO: a base actor θ, K exploratory actors, 2K critics, and the deployed actor of ``predict``.

The module's own weights *are* the deployed policy, so ``predict``, ``evaluate_actions``, ``get_distribution`` and export
are Stable-Baselines3's, unchanged. The weights that are trained are stacked beside it, with a leading axis over policies, so
that K policies are evaluated by one batched call (``torch.func.vmap``).
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn
from torch.func import functional_call

from sb3_ext.common.distributions import LOG_STD_RANGE, DiagonalGaussian, make_action_distribution
from sb3_ext.common.optimizers import Params


class TensorStore(nn.Module):
    """Dict of named tensors that is saved, moved and loaded with the module it belongs to.

    Args:
        tensors: by name; names may contain dots.
        trainable: whether they are parameters; False: buffers.
    """

    def __init__(self, tensors: Params, trainable: bool) -> None:
        super().__init__()
        self._names = {name: name.replace(".", "/") for name in tensors}
        for name, tensor in tensors.items():
            if trainable:
                self.register_parameter(self._names[name], nn.Parameter(tensor.detach().clone()))
            else:
                self.register_buffer(self._names[name], tensor.detach().clone())

    def as_dict(self) -> Params:
        """Return the tensors by name."""
        return {name: getattr(self, stored) for name, stored in self._names.items()}

    @torch.no_grad()
    def assign(self, tensors: Params) -> None:
        """Copy values into the tensors, by name."""
        for name, stored in self._names.items():
            getattr(self, stored).copy_(tensors[name])


class _Actor(nn.Module):
    """Actor as a module: preprocessed observations ``[n, ...]`` → parameters of the action distribution ``[n, P]``."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: Any) -> Tensor:
        policy = self.policy
        output = policy.action_net(policy.mlp_extractor.forward_actor(policy.pi_features_extractor(observations)))
        if isinstance(policy.action_space, spaces.Box):
            output = torch.cat([output, policy.log_std.clamp(*LOG_STD_RANGE).expand_as(output)], -1)
        return output


class _Critic(nn.Module):
    """Critic as a module: preprocessed observations ``[n, ...]`` → values ``[n]``."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: Any) -> Tensor:
        policy = self.policy
        features = policy.vf_features_extractor(observations)
        return policy.value_net(policy.mlp_extractor.forward_critic(features)).squeeze(-1)


class IRPOPolicy(ActorCriticPolicy):
    """Policy of the paper's IRPO: an actor, its K exploratory versions and two critics for each of these.

    Args:
        observation_space: of the environment.
        action_space: of the environment.
        lr_schedule: learning rate of the critics.
        net_arch: as in SB3. Default: actor 64-64, critics 256-256; for images none.
        n_exploratory: K, number of exploratory policies.
        share_features_extractor: must be False: actors and critics are updated by different rules.
        **kwargs: keyword arguments of SB3's ``ActorCriticPolicy``; the optimiser is that of the critics.

    Attributes:
        base: weights of the base policy, θ.
        exploratory: weights of the K exploratory policies of the last iteration, ``[K, ...]``.
        critics: weights ``[2, K, ...]``, extrinsic first.

    Raises:
        ValueError: for ``use_sde`` or a shared features extractor.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        n_exploratory: int = 1,
        share_features_extractor: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("use_sde"):
            raise ValueError("IRPO does not support gSDE (use_sde=True): inner updates need a policy without hidden noise.")
        if share_features_extractor:
            raise ValueError("IRPO updates actors and critics by different rules: share_features_extractor must be False.")
        self.n_exploratory = n_exploratory
        self.distribution = make_action_distribution(action_space)
        if net_arch is None and kwargs.get("features_extractor_class", FlattenExtractor) is not NatureCNN:
            net_arch = dict(pi=[64, 64], vf=[256, 256])
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch,
            share_features_extractor=share_features_extractor,
            **kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        parameters.update(n_exploratory=self.n_exploratory)
        return parameters

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        actor: Params = {}
        critic: Params = {}
        for name, value in self.named_parameters():
            is_critic = "value" in name or name.startswith("vf_features_extractor")
            (critic if is_critic else actor)[name] = value
        k = self.n_exploratory
        self.base = TensorStore(actor, trainable=False)
        self.exploratory = TensorStore({n: v.expand(k, *v.shape) for n, v in actor.items()}, trainable=False)
        self.critics = TensorStore({n: v.expand(2, k, *v.shape) for n, v in critic.items()}, trainable=True)
        self.requires_grad_(False)  # the deployed weights are written by deploy(), θ by the base update:
        self.critics.requires_grad_(True)  # only the critics have an optimiser
        self.optimizer = self.optimizer_class(self.critics.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def preprocess(self, observations: Any) -> Any:
        """Preprocess observations ``[n, ...]`` for the features extractors (one-hot, scaled images) as SB3 does."""
        return preprocess_obs(observations, self.observation_space, normalize_images=self.normalize_images)

    def actor(self, params: Params, observations: Any) -> Tensor:
        """Return the distribution parameters ``[n, P]`` of a policy with weights ``params`` for preprocessed observations."""
        return functional_call(_Actor(self), {f"policy.{name}": value for name, value in params.items()}, (observations,))

    def critic(self, params: Params, observations: Any) -> Tensor:
        """Return the values ``[n]`` of a critic with weights ``params`` for preprocessed observations."""
        return functional_call(_Critic(self), {f"policy.{name}": value for name, value in params.items()}, (observations,))

    @torch.no_grad()
    def deploy(self, actor: Params, critic: Params) -> None:
        """Copy the weights of an actor and a critic into the policy that ``predict`` uses."""
        own = dict(self.named_parameters())
        for name, value in (*actor.items(), *critic.items()):
            own[name].copy_(value)
        if isinstance(self.distribution, DiagonalGaussian):
            self.log_std.clamp_(*LOG_STD_RANGE)


class CnnPolicy(IRPOPolicy):
    """Policy of the paper's IRPO for images: SB3's ``NatureCNN`` before the actor and before each critic.

    Args:
        *args: arguments of :class:`IRPOPolicy`.
        features_extractor_class: as in SB3.
        **kwargs: keyword arguments of :class:`IRPOPolicy`.
    """

    def __init__(self, *args: Any, features_extractor_class: type = NatureCNN, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(IRPOPolicy):
    """Policy of the paper's IRPO for Dict observations: SB3's ``CombinedExtractor``.

    Args:
        *args: arguments of :class:`IRPOPolicy`.
        features_extractor_class: as in SB3.
        **kwargs: keyword arguments of :class:`IRPOPolicy`.
    """

    def __init__(self, *args: Any, features_extractor_class: type = CombinedExtractor, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


MlpPolicy = IRPOPolicy
