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
    """State entropy with a fixed random encoder: ``r = log(‖y − y_k‖₂ + 1)``, y_k the k-th nearest neighbour of y.

    y is the encoding of s′ and y_k its k-th nearest neighbour among the ``capacity`` states before it, in all environments,
    earlier steps of this batch included and states of the same step excluded; the mean of ``log ‖y − y_k‖`` over states is, up
    to constants, the k-nearest-neighbour estimate of their entropy. With fewer than k states before it, the farthest is used,
    and the reward of the very first is 0. The paper takes neighbours from a replay buffer or from the batch without the state
    itself; with all states before it, the reward does not depend on how experience is split into batches.

    Source: Seo et al., arXiv 2102.09430; k = 3 and 50 features as there.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        n_neighbors: k.
        latent_dim: number of features y.
        hidden_sizes: of the encoder, between SB3's features extractor and its output.
        features_extractor_class: SB3 features extractor, as in SB3's policies; None: see :class:`Encoder`.
        features_extractor_kwargs: its constructor arguments.
        capacity: number of states that are stored, over all parallel environments.
        normalize_observations: normalise observations by the statistics of random steps, see :class:`FixedInputs`.
        warmup_steps: random steps that ``fit`` takes for these statistics, over all parallel environments.
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
        # The states that count, in order of time; before row t are the stored ones and those of the rows above it.
        seen = torch.cat([self.states, encoded[mask]])
        ends = (len(self.states) + mask.sum(1).cumsum(0) - mask.sum(1)).tolist()
        rewards = torch.zeros(mask.shape, device=encoded.device)
        # Row by row: each has other states before it, and all rows at once need memory for every pair of states.
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
        """Return encodings of s′ ``[T, B, latent_dim]``."""
        encoded = in_chunks(lambda x: self.encoder(self.normalizer(x)), flatten_steps(batch.next_observations))
        return encoded.view(batch.n_steps, batch.n_envs, -1)

    def _start_over(self) -> None:
        self.states = self.states[:0].clone()
