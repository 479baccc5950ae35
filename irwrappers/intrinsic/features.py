"""Rewards that are differences of a feature, r_k = ±(φ_i(s′) − φ_i(s)), and the observations they use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from irwrappers.intrinsic.base import IntrinsicReward, environment_hook
from irwrappers.transitions import Transitions
from irwrappers.unique_rows import unique_rows
from irwrappers.validation import check_range


class FeatureDifference(IntrinsicReward):
    """Signed differences of features: r_k = s_k (φ_i(s′) − φ_i(s)) with i = ⌊k/2⌋ + 1 and s_k = −, +, −, + …

    φ_0 is constant and skipped. Source: Cho & Tran, arXiv 2601.21391. Subclasses define :meth:`features`.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        n_rewards: number of channels, two for each feature.
        indices: the entries of a one-dimensional observation that φ sees. ``None``: the ``position_indices`` of the
            environment given to :meth:`fit`, or all if it has none.
    """

    indices: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_rewards: int = 6,
        indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        check_range("n_rewards", n_rewards, 1, integer=True, schedule=False)
        self.n_rewards = n_rewards
        self.n_entries = observation_entries(observation_space, type(self).__name__)
        self._given_indices = indices is not None
        self.register_buffer("indices", self._check_indices(range(self.n_entries) if indices is None else indices))

    def _check_indices(self, indices: Sequence[int]) -> Tensor:
        chosen = [int(i) for i in indices]
        if not chosen or min(chosen) < 0 or max(chosen) >= self.n_entries:
            raise ValueError(f"indices must lie in 0 … {self.n_entries - 1} (the entries of an observation), got {chosen}.")
        return torch.tensor(chosen, dtype=torch.long)

    def _read_indices(self, env: VecEnv) -> None:
        hook = None if self._given_indices else environment_hook(env, "position_indices")
        if hook is not None:
            self.indices = self._check_indices(hook).to(self.indices.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.indices = state_dict[prefix + "indices"].to(self.indices.device)  # their number depends on the environment
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(f"{'-+'[k % 2]}phi_{k // 2 + 1}" for k in range(self.n_rewards))

    def features(self, inputs: Tensor) -> Tensor:
        """Return φ_0, φ_1 … ``[n, ≥ ⌈n_rewards / 2⌉ + 1]`` of the chosen entries ``[n, d]`` of observations."""
        raise NotImplementedError

    def select(self, observations: Tensor) -> Tensor:
        """Return the chosen entries of observations ``[n, …]``, float32 ``[n, d]``."""
        return flatten_observations(self.observation_space, observations)[:, self.indices]

    @torch.no_grad()
    def compute(self, batch: Transitions) -> Tensor:
        leading = (batch.n_steps, batch.n_envs)
        both = torch.cat([batch.observations.flatten(0, 1), batch.next_observations.flatten(0, 1)])
        rows, inverse = unique_rows(self.select(both))  # a grid has few distinct states: evaluate each once
        pairs = torch.arange(self.n_rewards, device=rows.device)
        phi = self.features(rows)[:, pairs // 2 + 1] * (2.0 * (pairs % 2) - 1)
        before, after = phi[inverse].chunk(2)
        return (after - before).view(*leading, self.n_rewards)


def observation_entries(space: spaces.Space, who: str) -> int:
    """Return how many numbers :func:`flatten_observations` makes of one observation; ``who`` is named in errors."""
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return int(space.shape[0])
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    raise ValueError(
        f"{who} needs one-dimensional Box or Discrete observations, got {space}; flatten them "
        "(gymnasium.wrappers.FlattenObservation) or choose another reward."
    )


def flatten_observations(space: spaces.Space, observations: Tensor) -> Tensor:
    """Return observations as float32 ``[n, entries]``; a Discrete observation becomes one-hot."""
    if isinstance(space, spaces.Discrete):
        return torch.nn.functional.one_hot((observations - int(space.start)).long().flatten(), int(space.n)).float()
    return observations.float()
