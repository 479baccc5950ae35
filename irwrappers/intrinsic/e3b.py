"""Exploration via elliptical episodic bonuses."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from irwrappers.intrinsic.episodic import EpisodicMemoryReward, Memory
from irwrappers.intrinsic.registry import register
from irwrappers.validation import check_positive


@register("e3b")
class E3B(EpisodicMemoryReward):
    """Elliptical episodic bonus: ``r = φ(s′)ᵀ C⁻¹ φ(s′)``, C the covariance of the episode's features so far.

    ``C = λ I + Σ φ(s_i) φ(s_i)ᵀ`` over the states of the episode before s′, its first among them; the inverse is stored, and
    updated in rank one after Sherman and Morrison, ``C⁻¹ ← C⁻¹ − u uᵀ / (1 + φᵀ u)`` with ``u = C⁻¹ φ``. φ is learned by
    inverse dynamics. With one-hot φ this is ``1 / (N + λ)``, N the visits of s′ earlier in the episode.

    Source: Henaff et al., arXiv 2210.05805; λ = 0.1 as there. The paper's φ has several hundred entries; the cost of a step
    grows with their square, and 32 are the default here.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        ridge: λ, the regularisation of the covariance.
        **kwargs: of :class:`EpisodicMemoryReward`.
    """

    resizable = ("inverse_covariance",)

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, ridge: float = 0.1, **kwargs: Any) -> None:
        check_positive(ridge=ridge)
        self.ridge = ridge  # before the base class builds the first memory, which depends on it
        super().__init__(observation_space, action_space, **kwargs)

    def _empty(self, n_envs: int, device: torch.device) -> Memory:
        # In double precision: after a thousand rank-one updates of λ⁻¹ I entries are small differences of large numbers.
        return {"inverse_covariance": self._start(device).repeat(n_envs, 1, 1)}

    def _start(self, device: torch.device) -> Tensor:
        return torch.eye(self.latent_dim, dtype=torch.float64, device=device) / self.ridge

    def _walk(self, memory: Memory, now: Tensor, following: Tensor, done: Tensor, valid: Tensor) -> tuple[Tensor, Memory]:
        inverse = memory["inverse_covariance"].clone()
        phi, next_phi = now.double(), following.double()  # zero where a step does not count, and zero changes nothing
        rewards = []
        # One step after the other: each inverse is made from the one before it.
        for t, ends in enumerate(done.any(1).tolist()):
            x, y = phi[t], next_phi[t]
            u = (inverse @ x[..., None]).squeeze(-1)
            v = u / (1 + (x * u).sum(-1, keepdim=True))
            inverse.addcmul_(u[:, :, None], v[:, None], value=-1)
            rewards.append(((inverse @ y[..., None]).squeeze(-1) * y).sum(-1))
            if ends:
                inverse[done[t]] = self._start(inverse.device)
        return torch.stack(rewards), {"inverse_covariance": inverse}
