"""Differences of an untrained network's features: exploration in random directions."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from irwrappers.intrinsic.base import as_vec_env
from irwrappers.intrinsic.features import FeatureDifference
from irwrappers.intrinsic.registry import register
from irwrappers.seeding import seeded


def mlp(sizes: Sequence[int], activation: type[nn.Module], seed: int) -> nn.Sequential:
    """Return a multilayer perceptron with torch's default initialisation, without advancing the global generator.

    Args:
        sizes: of inputs, hidden layers and outputs.
        activation: between layers.
        seed: of the initialisation.
    """
    n_inputs, *hidden_sizes, n_outputs = sizes
    with seeded(seed, torch.device("cpu")):
        return nn.Sequential(*create_mlp(n_inputs, n_outputs, hidden_sizes, activation))


@register("random")
class RandomNetworkReward(FeatureDifference):
    """Differences of the features of an untrained tanh network (4 × 512 in the paper).

    Source: Cho & Tran, arXiv 2601.21391, ablation.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        n_rewards: number of channels, two for each feature.
        indices: entries of an observation that φ sees, as in :class:`FeatureDifference`.
        hidden_sizes: of the network.
        seed: of its weights.
    """

    fitted: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_rewards: int = 6,
        indices: Sequence[int] | None = None,
        hidden_sizes: Sequence[int] = (512, 512, 512, 512),
        seed: int = 0,
    ) -> None:
        super().__init__(observation_space, action_space, n_rewards, indices)
        self.register_buffer("fitted", torch.tensor(self._given_indices))
        # All entries are inputs and those not chosen are zeroed, so the weights do not depend on position_indices.
        self.network = mlp([self.n_entries, *hidden_sizes, n_rewards // 2 + 2], nn.Tanh, seed).requires_grad_(False)

    @property
    def needs_fit(self) -> bool:
        return not bool(self.fitted)

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int = 0, seed: int | None = None, progress_bar: bool = False) -> int:
        """Read the environment's ``position_indices``, if it has them; takes no step."""
        self._read_indices(as_vec_env(env))
        self.fitted.fill_(True)
        return 0

    def features(self, inputs: Tensor) -> Tensor:
        full = inputs.new_zeros(len(inputs), self.n_entries)
        full[:, self.indices] = inputs
        return self.network(full)
