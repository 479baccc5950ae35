"""Models of what actions do, in feature space: the inverse model that shapes features, and forward models that predict.

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
    """Which action leads from φ(s) to φ(s′).

    Args:
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        latent_dim: of φ.
        hidden_sizes: of the perceptron.
    """

    def __init__(self, action_space: spaces.Space, latent_dim: int, hidden_sizes: Sequence[int] = (256,)) -> None:
        super().__init__()
        self.action_space = action_space
        n_outputs = action_entries(action_space, type(self).__name__)
        self.network = nn.Sequential(*create_mlp(2 * latent_dim, n_outputs, list(hidden_sizes)))

    def forward(self, phi: Tensor, next_phi: Tensor) -> Tensor:
        """Logits of discrete actions, or the action itself, ``[n, entries]``."""
        return self.network(torch.cat([phi, next_phi], 1))

    def loss(self, phi: Tensor, next_phi: Tensor, actions: Tensor) -> Tensor:
        """``[n]``: cross-entropy of discrete actions (added up over their parts), half the squared error of a ``Box``."""
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
    """φ(s′) from φ(s) and a.

    Args:
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        latent_dim: of φ.
        hidden_sizes: of the perceptron.
    """

    def __init__(self, action_space: spaces.Space, latent_dim: int, hidden_sizes: Sequence[int] = (256,)) -> None:
        super().__init__()
        self.action_space = action_space
        n_inputs = latent_dim + action_entries(action_space, type(self).__name__)
        self.network = nn.Sequential(*create_mlp(n_inputs, latent_dim, list(hidden_sizes)))

    def forward(self, phi: Tensor, actions: Tensor) -> Tensor:
        """``[n, latent_dim]``."""
        return self.network(torch.cat([phi, encode_actions(self.action_space, actions)], 1))


class ForwardEnsemble(nn.Module):
    """M forward models of one size, evaluated together: M matrix products in one ``baddbmm`` per layer.

    Each is initialised as torch initialises a :class:`ForwardModel`, from draws of its own.

    Args:
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        latent_dim: of φ.
        n_models: M.
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
        """``[M, n, latent_dim]``."""
        inputs = torch.cat([phi, encode_actions(self.action_space, actions)], 1)
        x = inputs.expand(len(self.weights[0]), *inputs.shape)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x.relu() if number else x, weight)
        return x
