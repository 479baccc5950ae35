"""Rewarding impact-driven exploration."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from irwrappers.intrinsic.counts import row_keys
from irwrappers.intrinsic.dynamics import ForwardModel
from irwrappers.intrinsic.encoder import flatten_steps
from irwrappers.intrinsic.episodic import EpisodicMemoryReward, Memory
from irwrappers.intrinsic.memory import look_back
from irwrappers.intrinsic.registry import register
from irwrappers.transitions import Transitions
from irwrappers.validation import check_positive


@register("ride")
class RIDE(EpisodicMemoryReward):
    """Impact of an action in feature space, divided by the root of the episode's visits of s′.

    ``r = ‖φ(s′) − φ(s)‖₂ / sqrt(N_ep(s′))``, N_ep(s′) the visits of s′ in the episode, this one and the episode's first state
    included. φ is learned by an inverse and a forward model f together, both of which reach it:
    ``inverse_coef · L_inv + forward_coef · ‖f(φ(s), a) − φ(s′)‖²``. States are the same if all their entries are (floats as
    float32), so where observations are continuous N_ep is 1. Visits more than ``capacity`` steps ago are not counted.

    Source: Raileanu & Rocktäschel, arXiv 2002.12292. The authors' program weighs the losses 0.1 and 10; with Adam on random
    walks that shrinks φ to a point before the inverse model has learned anything, so the defaults are about those of ICM.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        inverse_coef: coefficient of the inverse model's loss.
        forward_coef: coefficient of the forward model's loss.
        capacity: steps of an episode that are stored, in each environment.
        **kwargs: of :class:`EpisodicMemoryReward`.
    """

    resizable = ("keys", "length")

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        inverse_coef: float = 1.0,
        forward_coef: float = 0.1,
        capacity: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **kwargs)
        check_positive(inverse_coef=inverse_coef, forward_coef=forward_coef, capacity=capacity)
        self.inverse_coef = inverse_coef
        self.forward_coef = forward_coef
        self.capacity = capacity
        self.forward_model = ForwardModel(action_space, self.latent_dim, kwargs.get("hidden_sizes", (256,)))
        modules = (self.encoder, self.inverse, self.forward_model)
        self._make_optimizer(parameter for module in modules for parameter in module.parameters())

    def _empty(self, n_envs: int, device: torch.device) -> Memory:
        return {
            "keys": torch.zeros(n_envs, 0, dtype=torch.int64, device=device),
            "length": torch.zeros(n_envs, dtype=torch.int64, device=device),
        }

    @torch.no_grad()
    def compute(self, batch: Transitions) -> Tensor:
        phi, next_phi = self._features(batch)
        return (next_phi - phi).norm(dim=-1, keepdim=True) * super().compute(batch)

    def _inputs(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        shape = batch.terminated.shape
        observations = flatten_steps(batch.observations), flatten_steps(batch.next_observations)
        now, following = (row_keys(self.observation_space, x).view(shape) for x in observations)
        return now, following

    def _walk(self, memory: Memory, now: Tensor, following: Tensor, done: Tensor, valid: Tensor) -> tuple[Tensor, Memory]:
        pool = look_back(memory["keys"], memory["length"], now, done, valid, self.capacity)
        same = pool.items[:, None] == following.T[..., None]
        visits = 1 + (same & ~pool.hidden).sum(-1)
        keys, length = pool.remember()
        return visits.T.float().rsqrt(), {"keys": keys, "length": length}

    def loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        phi, next_phi = self.encoder(batch.observations), self.encoder(batch.next_observations)
        inverse = self.inverse.loss(phi, next_phi, batch.actions).mean()
        forward = (self.forward_model(phi, batch.actions) - next_phi).square().sum(1).mean()
        loss = self.inverse_coef * inverse + self.forward_coef * forward
        return loss, {"inverse_loss": inverse.detach(), "forward_loss": forward.detach()}
