"""Inverse and forward models of the dynamics in feature space.

They are those of Pathak et al., arXiv 1705.05363 and, in an ensemble, 1906.04161.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import create_mlp
from torch import Tensor, nn

from irwrappers.intrinsic.encoder import action_entries, encode_actions


class InverseModel(nn.Module):
    """A perceptron that predicts the action that leads from φ(s) to φ(s′).

    Args:
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        latent_dim: number of features φ.
        hidden_sizes: of the perceptron.
    """

    def __init__(self, action_space: spaces.Space, latent_dim: int, hidden_sizes: Sequence[int] = (256,)) -> None:
        super().__init__()
        self.action_space = action_space
        n_outputs = action_entries(action_space, type(self).__name__)
        self.network = nn.Sequential(*create_mlp(2 * latent_dim, n_outputs, list(hidden_sizes)))

    def forward(self, phi: Tensor, next_phi: Tensor) -> Tensor:
        """Return logits of discrete actions, or the action itself, ``[n, entries]``."""
        return self.network(torch.cat([phi, next_phi], 1))

    def loss(self, phi: Tensor, next_phi: Tensor, actions: Tensor) -> Tensor:
        """Return ``[n]``: cross-entropy of discrete actions (summed over parts), half the squared error of a ``Box``."""
        predicted, space = self(phi, next_phi), self.action_space
        target = encode_actions(space, actions)
        if isinstance(space, spaces.MultiBinary):
            return nn.functional.binary_cross_entropy_with_logits(predicted, target, reduction="none").sum(1)
        if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
            sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in space.nvec]
            parts = zip(predicted.split(sizes, 1), target.split(sizes, 1), strict=True)
            return torch.stack([-(t * p.log_softmax(1)).sum(1) for p, t in parts]).sum(0)
        return 0.5 * (predicted - target).square().sum(1)


class ForwardModel(nn.Module):
    """A perceptron that predicts φ(s′) from φ(s) and a.

    Args:
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        latent_dim: number of features φ.
        hidden_sizes: of the perceptron.
    """

    def __init__(self, action_space: spaces.Space, latent_dim: int, hidden_sizes: Sequence[int] = (256,)) -> None:
        super().__init__()
        self.action_space = action_space
        n_inputs = latent_dim + action_entries(action_space, type(self).__name__)
        self.network = nn.Sequential(*create_mlp(n_inputs, latent_dim, list(hidden_sizes)))

    def forward(self, phi: Tensor, actions: Tensor) -> Tensor:
        """Return predictions of φ(s′) ``[n, latent_dim]``."""
        return self.network(torch.cat([phi, encode_actions(self.action_space, actions)], 1))


class ForwardEnsemble(nn.Module):
    """M forward models of one size, evaluated together: M matrix products in one ``baddbmm`` per layer.

    Each is initialised independently, as torch initialises a :class:`ForwardModel`.

    Args:
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        latent_dim: number of features φ.
        n_models: M, the size of the ensemble.
        hidden_sizes: of each perceptron.
    """

    def __init__(
        self, action_space: spaces.Space, latent_dim: int, n_models: int, hidden_sizes: Sequence[int] = (256,)
    ) -> None:
        super().__init__()
        self.action_space = action_space
        models = [ForwardModel(action_space, latent_dim, hidden_sizes).network for _ in range(n_models)]
        layers = [[layer for layer in column if isinstance(layer, nn.Linear)] for column in zip(*models, strict=True)]
        layers = [column for column in layers if column]  # without the activations
        self.weights = nn.ParameterList([torch.stack([layer.weight.detach().mT for layer in column]) for column in layers])
        self.biases = nn.ParameterList([torch.stack([layer.bias.detach()[None] for layer in column]) for column in layers])

    def forward(self, phi: Tensor, actions: Tensor) -> Tensor:
        """Return predictions of φ(s′) ``[M, n, latent_dim]``."""
        inputs = torch.cat([phi, encode_actions(self.action_space, actions)], 1)
        x = inputs.expand(len(self.weights[0]), *inputs.shape)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x.relu() if number else x, weight)
        return x
