"""State entropy maximisation with a random encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from irwrappers.intrinsic.encoder import Encoder, flatten_steps
from irwrappers.intrinsic.memory import FixedInputs, ResizableBuffers, nearest
from irwrappers.intrinsic.network_reward import in_chunks
from irwrappers.intrinsic.registry import register
from irwrappers.transitions import Transitions
from irwrappers.validation import check_positive


@register("re3")
class RE3(ResizableBuffers, FixedInputs):
    """How far the latest states are from s′, seen through a fixed random encoder: ``r = log(‖y − y_k‖₂ + 1)``.

    y is the encoding of s′ and y_k its k-th nearest neighbour among the ``capacity`` states before it, those of all copies and
    of this batch's earlier steps included, the same step's not; the mean of ``log ‖y − y_k‖`` over states is, up to constants,
    the k-nearest-neighbour estimate of their entropy. While there are fewer than k states before it, the farthest is taken,
    and 0 where there is none. The paper takes neighbours from a replay buffer or from a batch, the state itself aside; the
    states before, whichever batch they came in, make the reward a matter of experience and not of how it is cut into batches.

    Source: Seo et al., arXiv 2102.09430; k = 3 and 50 features as there.

    Args:
        n_neighbors: k.
        latent_dim: number of features.
        hidden_sizes, features_extractor_class, features_extractor_kwargs: see :class:`Encoder`.
        capacity: states that are remembered, all copies together.
        normalize_observations, warmup_steps: see :class:`FixedInputs`.
    """

    n_rewards = 1
    resizable = ("states",)
    states: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_neighbors: int = 3,
        latent_dim: int = 50,
        hidden_sizes: Sequence[int] = (256,),
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        capacity: int = 5000,
        normalize_observations: bool = True,
        warmup_steps: int = 2000,
    ) -> None:
        super().__init__(observation_space, action_space, normalize_observations, warmup_steps)
        check_positive(n_neighbors=n_neighbors, latent_dim=latent_dim, capacity=capacity)
        if capacity < n_neighbors:
            raise ValueError(f"capacity must be at least n_neighbors, got {capacity} and {n_neighbors}.")
        self.n_neighbors = n_neighbors
        self.capacity = capacity
        self.encoder = Encoder(
            self.normalizer.space, latent_dim, hidden_sizes, features_extractor_class, features_extractor_kwargs
        )
        self.encoder.requires_grad_(False)
        self.register_buffer("states", torch.zeros(0, latent_dim))

    @torch.no_grad()
    def compute(self, batch: Transitions) -> Tensor:
        mask = batch.mask
        encoded = self._encode(batch)
        # The states that count, in order of time; those before row t are the stored ones and all of the rows above it.
        seen = torch.cat([self.states, encoded[mask]])
        ends = (len(self.states) + mask.sum(1).cumsum(0) - mask.sum(1)).tolist()
        rewards = torch.zeros(mask.shape, device=encoded.device)
        # One row after the other: each looks back on other states, and all rows at once would need their product in memory.
        for t, end in enumerate(ends):
            if end:
                squared = nearest(encoded[None, t], seen[None, max(end - self.capacity, 0) : end], self.n_neighbors)
                rewards[t] = squared[0].amax(-1).sqrt().log1p()
        return torch.where(mask, rewards, 0).unsqueeze(-1)

    def advance(self, batch: Transitions) -> None:
        self._check(batch)
        with torch.no_grad():
            new = self._encode(batch)[batch.mask]
        self.states = torch.cat([self.states, new])[-self.capacity :].clone()

    def _encode(self, batch: Transitions) -> Tensor:
        """``[T, B, latent_dim]``."""
        encoded = in_chunks(lambda x: self.encoder(self.normalizer(x)), flatten_steps(batch.next_observations))
        return encoded.view(batch.n_steps, batch.n_envs, -1)

    def _start_over(self) -> None:
        self.states = self.states[:0].clone()
