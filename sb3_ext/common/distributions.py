"""Action distributions as pure functions of a network's output, for use under ``torch.func``.

Stable-Baselines3's distribution objects hold state and sample from the global generator. Here sampling is a function of the
parameters and of noise sampled beforehand (one call a rollout, from a separate generator), so it batches over policies and
is repeatable. Values equal SB3's (tested).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

LOG_STD_RANGE = (-5.0, 2.0)  # IRPO's clip (arXiv 2601.21391, program)


class ActionDistribution(ABC):
    """Action distribution as functions of ``params`` ``[..., P]``; actions are ``[..., n_actions]``.

    Attributes:
        n_params: P.
        n_noise: entries of the noise for one action.
    """

    n_params: int
    n_noise: int

    @abstractmethod
    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
        """Return noise for :meth:`sample`, ``[*shape, n_noise]``."""

    @abstractmethod
    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return actions ``[..., n_actions]`` of the policy; ``noise`` is from :meth:`sample_noise`."""

    @abstractmethod
    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """Return log π(a) ``[...]``."""

    @abstractmethod
    def entropy(self, params: Tensor) -> Tensor:
        """Return the entropy ``[...]`` in nats."""

    @abstractmethod
    def kl_divergence(self, params: Tensor, other: Tensor) -> Tensor:
        """Return KL(π_params ‖ π_other) ``[...]`` in nats."""


class Categorical(ActionDistribution):
    """Independent categorical actions, for ``Discrete`` (one) and ``MultiDiscrete`` spaces; parameters are logits.

    Args:
        nvec: number of choices of each action.
    """

    def __init__(self, nvec: list[int]) -> None:
        self.nvec = nvec
        self.n_params = self.n_noise = sum(nvec)

    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
        uniform = torch.rand((*shape, self.n_noise), generator=generator, device=device)
        return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))  # Gumbel

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        if len(self.nvec) == 1:
            return (params + noise).argmax(-1, keepdim=True)
        return torch.stack([part.argmax(-1) for part in (params + noise).split(self.nvec, -1)], -1)

    def _log_softmax(self, params: Tensor) -> list[Tensor]:
        return [F.log_softmax(part, -1) for part in params.split(self.nvec, -1)]

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        chosen = actions.long().split(1, -1)
        return sum(
            (logits.gather(-1, action).squeeze(-1) for logits, action in zip(self._log_softmax(params), chosen, strict=True)),
            start=params.new_zeros(()),
        )

    def entropy(self, params: Tensor) -> Tensor:
        return sum((-(logits.exp() * logits).sum(-1) for logits in self._log_softmax(params)), start=params.new_zeros(()))

    def kl_divergence(self, params: Tensor, other: Tensor) -> Tensor:
        pairs = zip(self._log_softmax(params), self._log_softmax(other), strict=True)
        return sum(((p.exp() * (p - q)).sum(-1) for p, q in pairs), start=params.new_zeros(()))


class Bernoulli(ActionDistribution):
    """Independent Bernoulli actions, for ``MultiBinary`` spaces; parameters are logits.

    Args:
        n: number of actions.
    """

    def __init__(self, n: int) -> None:
        self.n_params = self.n_noise = n

    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
        return torch.logit(torch.rand((*shape, self.n_noise), generator=generator, device=device), eps=1e-7)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        return (params + noise > 0).float()

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        return (actions * F.logsigmoid(params) + (1 - actions) * F.logsigmoid(-params)).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        return -self._cross(params, params)

    def kl_divergence(self, params: Tensor, other: Tensor) -> Tensor:
        return self._cross(params, params) - self._cross(params, other)

    @staticmethod
    def _cross(params: Tensor, other: Tensor) -> Tensor:
        p = params.sigmoid()
        return (p * F.logsigmoid(other) + (1 - p) * F.logsigmoid(-other)).sum(-1)


class DiagonalGaussian(ActionDistribution):
    """Gaussian with diagonal covariance, for ``Box`` spaces; ``params`` are mean and log standard deviation, ``[..., 2 n]``.

    Args:
        n: number of actions.
    """

    LOG_SQRT_2PI = 0.9189385332046727

    def __init__(self, n: int) -> None:
        self.n_params, self.n_noise = 2 * n, n

    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
        return torch.randn((*shape, self.n_noise), generator=generator, device=device)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = params.chunk(2, -1)
        return mean + log_std.exp() * noise

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = params.chunk(2, -1)
        return -(0.5 * ((actions - mean) * (-log_std).exp()) ** 2 + log_std + self.LOG_SQRT_2PI).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        return (params.chunk(2, -1)[1] + self.LOG_SQRT_2PI + 0.5).sum(-1)

    def kl_divergence(self, params: Tensor, other: Tensor) -> Tensor:
        (mean, log_std), (other_mean, other_log_std) = params.chunk(2, -1), other.chunk(2, -1)
        variance_ratio = (2 * (log_std - other_log_std)).exp()
        shift = ((mean - other_mean) * (-other_log_std).exp()) ** 2
        return (other_log_std - log_std + 0.5 * (variance_ratio + shift - 1)).sum(-1)


def make_action_distribution(space: spaces.Space) -> ActionDistribution:
    """Return the distribution that SB3 uses for this action space.

    Raises:
        NotImplementedError: for a space that SB3's on-policy algorithms do not support.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return Categorical([int(n) for n in space.nvec])
    if isinstance(space, spaces.MultiBinary) and isinstance(space.n, (int,)):
        return Bernoulli(space.n)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return DiagonalGaussian(space.shape[0])
    raise NotImplementedError(
        f"Unsupported action space {space}; expected a one-dimensional Box, Discrete, MultiDiscrete or MultiBinary. "
        "Flatten it with a gymnasium.ActionWrapper."
    )
