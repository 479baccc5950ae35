"""Conditional layer normalisation, by which the policy is conditioned on the parameters of the reward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from stable_baselines3.common.torch_layers import create_mlp
from torch import Tensor, nn
from torch.nn import functional


class ConditionalLayerNorm(nn.Module):
    """CLN(F | η) = f[g/σ ⊙ (a − μ) + b], g = sigmoid(f_c(η)), b = h_c(η) (Zhang, Stadie & Ba); f is left to the caller.

    Here a are a layer's pre-activations, μ and σ their mean and deviation over its features. The initialisation is close to
    neutral: every gate is 0.88, where it still has a slope, b is near 0, and both are nearly the same for all η.

    Args:
        n_features: number of features of the layer.
        n_condition: size of η.
        hidden: sizes of layers before the two affine maps f_c and h_c, tanh after each (none in the paper's main form).
        film: whether to leave the normalisation out, g ⊙ a + b (FiLM, arXiv 1709.07871), the paper's comparison.
    """

    def __init__(self, n_features: int, n_condition: int, hidden: Sequence[int] = (), film: bool = False) -> None:
        super().__init__()
        self.n_features, self.film = n_features, film
        # f_c and h_c as one affine map with 2 · n_features outputs: one call instead of two.
        self.conditioner = nn.Sequential(*create_mlp(n_condition, 2 * n_features, list(hidden), nn.Tanh))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the conditioner."""
        for layer in self.conditioner:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)
                nn.init.zeros_(layer.bias)
        last = self.conditioner[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias[: self.n_features] = 2.0

    def gate(self, condition: Tensor) -> Tensor:
        """Return g ``[..., n_features]`` of η ``[..., n_condition]``."""
        return torch.sigmoid(self.conditioner(condition)[..., : self.n_features])

    def forward(self, a: Tensor, condition: Tensor) -> Tensor:
        """Return the argument of f ``[n, n_features]``.

        Args:
            a: pre-activations ``[n, n_features]``.
            condition: η, ``[n_condition]`` or ``[n, n_condition]``.
        """
        gate, shift = self.conditioner(condition).chunk(2, -1)
        if not self.film:
            a = functional.layer_norm(a, (self.n_features,))
        return torch.sigmoid(gate) * a + shift
