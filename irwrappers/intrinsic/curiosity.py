"""Rewards of forward models: the error of one (``ICM``), the variance of several (``Disagreement``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from irwrappers.intrinsic.dynamics import ForwardEnsemble, ForwardModel, InverseModel
from irwrappers.intrinsic.encoder import Encoder, flatten_steps
from irwrappers.intrinsic.network_reward import NetworkReward, in_chunks
from irwrappers.intrinsic.registry import register
from irwrappers.transitions import Transitions
from irwrappers.validation import check_positive, check_range


@register("icm")
class ICM(NetworkReward):
    """Intrinsic curiosity module: r = η/2 ‖φ̂(s′) − φ(s′)‖², the error of a forward model φ̂(s′) of φ(s) and a.

    Minimised together are (1 − β) L_I + β L_F, with the inverse model's error L_I (cross-entropy of the action given φ(s) and
    φ(s′)) and L_F = ½ ‖φ̂(s′) − φ(s′)‖². Gradients: L_I trains the features φ and the inverse model; L_F trains the forward
    model and, as in the paper's equation (7) and the authors' program, the features too, through φ(s) and through φ(s′); the
    reward carries none. (Burda et al., arXiv 1808.04355, later cut L_F off from φ.)
    Source: Pathak, Agrawal, Efros & Darrell, arXiv 1705.05363, equations (2)–(7).

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        latent_dim: number of features φ; 288 in the paper, for images.
        hidden_sizes: of φ, between SB3's features extractor and its output.
        model_hidden_sizes: of the inverse and the forward model; 256 as in the paper.
        eta: η, the scale of the reward; 0.01 in the authors' program.
        beta: β, the weight of the forward loss, in [0, 1]; 0.2 in the paper.
        features_extractor_class: SB3 features extractor, as in SB3's policies; None: see :class:`Encoder`.
        features_extractor_kwargs: its constructor arguments.
        learning_rate: of Adam; 1e-3 is the paper's.
        **kwargs: of :class:`NetworkReward`.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        latent_dim: int = 64,
        hidden_sizes: Sequence[int] = (256,),
        model_hidden_sizes: Sequence[int] = (256,),
        eta: float = 0.01,
        beta: float = 0.2,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        learning_rate: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, learning_rate, **kwargs)
        check_positive(latent_dim=latent_dim, eta=eta)
        check_range("beta", beta, 0, 1, schedule=False)
        self.eta, self.beta = eta, beta
        space = self.normalizer.space
        self.encoder = Encoder(space, latent_dim, hidden_sizes, features_extractor_class, features_extractor_kwargs)
        self.inverse_model = InverseModel(action_space, latent_dim, model_hidden_sizes)
        self.forward_model = ForwardModel(action_space, latent_dim, model_hidden_sizes)
        self._make_optimizer(self.parameters())

    @torch.no_grad()
    def compute(self, batch: Transitions) -> Tensor:
        def rewards(observations: Any, actions: Tensor, next_observations: Any) -> Tensor:
            phi, next_phi = (self.encoder(self.normalizer(x)) for x in (observations, next_observations))
            return self.eta * self.forward_error(phi, actions, next_phi)

        inputs = (flatten_steps(x) for x in (batch.observations, batch.actions, batch.next_observations))
        return in_chunks(rewards, *inputs).view(batch.n_steps, batch.n_envs, 1)

    def forward_error(self, phi: Tensor, actions: Tensor, next_phi: Tensor) -> Tensor:
        """Return ½ ‖φ̂(s′) − φ(s′)‖² ``[n]``."""
        return 0.5 * (self.forward_model(phi, actions) - next_phi).square().sum(1)

    def loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        phi, next_phi = self.encoder(batch.observations), self.encoder(batch.next_observations)
        inverse = self.inverse_model.loss(phi, next_phi, batch.actions).mean()
        forward = self.forward_error(phi, batch.actions, next_phi).mean()
        log = {"inverse_loss": inverse.detach(), "forward_loss": forward.detach()}
        return (1 - self.beta) * inverse + self.beta * forward, log


@register("disagreement")
class Disagreement(NetworkReward):
    """Variance of an ensemble of forward models: r = E_m ‖f_m(φ(s), a) − E_m f_m(φ(s), a)‖² / d.

    φ is a fixed random network of d outputs, and each f_m learns φ(s′) from a random subset of the transitions. Where the
    environment is random all models converge to the mean, so that there is no reward, unlike with ICM's error. Dividing by d
    is as in the authors' program; the paper writes the norm alone. The variance is the biased one (over M, not M − 1).
    Source: Pathak, Gandhi & Gupta, arXiv 1906.04161, equation (1).

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        n_models: M, at least 2; 5 in the authors' program.
        latent_dim: d; 512 in the authors' program, for images.
        hidden_sizes: of φ, between SB3's features extractor and its output.
        model_hidden_sizes: of each forward model.
        update_proportion: probability that a model learns from a transition, in (0, 1]; 0.8 in the authors' program.
        features_extractor_class: SB3 features extractor, as in SB3's policies; None: see :class:`Encoder`.
        features_extractor_kwargs: its constructor arguments.
        **kwargs: of :class:`NetworkReward`; the learning rate 1e-4 is the authors'.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_models: int = 5,
        latent_dim: int = 128,
        hidden_sizes: Sequence[int] = (256,),
        model_hidden_sizes: Sequence[int] = (256,),
        update_proportion: float = 0.8,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **kwargs)
        check_positive(latent_dim=latent_dim)
        check_range("n_models", n_models, 2, integer=True, schedule=False, meaning="a variance needs two")
        check_range("update_proportion", update_proportion, 0, 1, open_low=True, schedule=False)
        self.update_proportion = update_proportion
        space = self.normalizer.space
        encoder = Encoder(space, latent_dim, hidden_sizes, features_extractor_class, features_extractor_kwargs)
        # Random features must distinguish states: with torch's own initialisation the biases dominate the differences.
        self.encoder = encoder.apply(partial(BasePolicy.init_weights, gain=2**0.5)).requires_grad_(False)
        self.models = ForwardEnsemble(action_space, latent_dim, n_models, model_hidden_sizes)
        self._make_optimizer(self.models.parameters())

    @torch.no_grad()
    def compute(self, batch: Transitions) -> Tensor:
        def variances(observations: Any, actions: Tensor) -> Tensor:
            predictions = self.models(self.encoder(self.normalizer(observations)), actions)
            return (predictions - predictions.mean(0)).square().mean((0, 2))  # Tensor.var(0) takes 40 times as long on a CPU

        inputs = (flatten_steps(x) for x in (batch.observations, batch.actions))
        return in_chunks(variances, *inputs).view(batch.n_steps, batch.n_envs, 1)

    def loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        predictions = self.models(self.encoder(batch.observations), batch.actions)
        errors = (predictions - self.encoder(batch.next_observations)).square().mean(2)  # [M, n]
        learned = torch.rand_like(errors) < self.update_proportion
        per_model = (errors * learned).sum(1) / learned.sum(1).clamp(min=1)
        # The sum, so that each model's gradient is independent of the number of models.
        return per_model.sum(), {"forward_loss": errors.detach().mean()}
