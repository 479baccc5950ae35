"""Policy of MAML-TRPO: SB3's actor as a function of its parameters."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn
from torch.func import functional_call

from sb3_ext.common.distributions import make_action_distribution
from sb3_ext.common.optimizers import Params


class MAMLPolicy(ActorCriticPolicy):
    """Actor of MAML-TRPO. SB3's value head exists, without a hidden layer, but is not trained or used.

    The module's own weights are θ, before any adaptation, which ``predict`` uses. The optimiser of SB3 is not used.

    Args:
        observation_space: of the tasks.
        action_space: of the tasks.
        lr_schedule: not used.
        net_arch: sizes of the hidden layers; None: ``dict(pi=[64, 64], vf=[])``.
        **kwargs: further arguments of ``ActorCriticPolicy``.

    Raises:
        ValueError: for ``use_sde``.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: dict[str, list[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("use_sde"):
            raise ValueError(
                "MAMLTRPO does not support gSDE (use_sde=True): its noise is not a function of the policy's parameters."
            )
        self.distribution = make_action_distribution(action_space)
        if net_arch is None:
            net_arch = dict(pi=[64, 64], vf=[])
        super().__init__(observation_space, action_space, lr_schedule, net_arch, **kwargs)

    @property
    def theta(self) -> Params:
        """Detached parameters of the actor by name."""
        critic = ("value_net.", "mlp_extractor.value_net.", "vf_features_extractor.")
        return {name: value.detach() for name, value in self.named_parameters() if not name.startswith(critic)}

    @torch.no_grad()
    def assign(self, theta: Params) -> None:
        """Set the parameters of the actor to ``theta``."""
        for name, value in self.theta.items():
            value.copy_(theta[name])

    def actor(self, params: Params, observations: Tensor) -> Tensor:
        """Return distribution parameters ``[n, P]`` of the actor with weights ``params`` for observations ``[n, n_obs]``."""
        return functional_call(_Actor(self), {f"policy.{name}": value for name, value in params.items()}, (observations,))


class _Actor(nn.Module):
    def __init__(self, policy: MAMLPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: Tensor) -> Tensor:
        policy = self.policy
        output = policy.action_net(policy.mlp_extractor.forward_actor(policy.pi_features_extractor(observations)))
        if isinstance(policy.action_space, spaces.Box):
            output = torch.cat([output, policy.log_std.expand_as(output)], -1)
        return output
