"""Novelty by distillation: a predictor learns the outputs of fixed random networks on visited states.

``RND`` (Burda et al., arXiv 1810.12894) has one such network, ``DRND`` (Yang et al., arXiv 2401.09750) a distribution of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from irwrappers.intrinsic.encoder import Encoder, flatten_steps
from irwrappers.intrinsic.network_reward import NetworkReward, in_chunks
from irwrappers.intrinsic.registry import register
from irwrappers.transitions import Transitions
from irwrappers.validation import check_positive, check_range


class _Distillation(NetworkReward):
    """A predictor f̂ and N fixed random networks of normalised s′. Subclasses define the reward of their difference."""

    inputs = ("next_observations",)

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_targets: int,
        latent_dim: int,
        hidden_sizes: Sequence[int],
        predictor_hidden_sizes: Sequence[int] | None,
        update_proportion: float | None,
        features_extractor_class: type[BaseFeaturesExtractor] | None,
        features_extractor_kwargs: dict[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **kwargs)
        check_positive(n_targets=n_targets, latent_dim=latent_dim)
        check_range("update_proportion", update_proportion, 0, 1, open_low=True, optional=True, schedule=False)
        self.update_proportion = update_proportion
        if predictor_hidden_sizes is None:
            width = hidden_sizes[-1] if hidden_sizes else latent_dim
            predictor_hidden_sizes = (*hidden_sizes, width, width)

        def network(sizes: Sequence[int]) -> Encoder:
            space = self.normalizer.space
            encoder = Encoder(space, latent_dim, sizes, features_extractor_class, features_extractor_kwargs)
            # As in both programs; with torch's own initialisation the biases dominate the differences between states.
            return encoder.apply(partial(BasePolicy.init_weights, gain=2**0.5))

        self.targets = nn.ModuleList([network(hidden_sizes) for _ in range(n_targets)]).requires_grad_(False)
        self.predictor = network(predictor_hidden_sizes)
        self._make_optimizer(self.predictor.parameters())

    def _rows_to_learn(self, n: int, n_envs: int) -> Tensor:
        proportion = min(1.0, 32 / n_envs) if self.update_proportion is None else self.update_proportion
        return super()._rows_to_learn(n, n_envs)[: max(1, round(proportion * n))]

    @torch.no_grad()
    def compute(self, batch: Transitions) -> Tensor:
        rewards = in_chunks(lambda x: self.bonus(self.normalizer(x)), flatten_steps(batch.next_observations))
        return rewards.view(batch.n_steps, batch.n_envs, 1)

    def bonus(self, observations: Any) -> Tensor:
        """Return the rewards ``[n]`` of normalised observations."""
        raise NotImplementedError


@register("rnd")
class RND(_Distillation):
    """Random network distillation: r = ‖f̂(s′) − f(s′)‖² / d, with f a fixed random network of d outputs.

    The predictor f̂ minimises the same error on visited states, so the error falls there and stays elsewhere. Dividing by d is
    as in the authors' program (the paper writes the norm alone): the scale does not depend on ``latent_dim``. Observations are
    normalised and clipped to ±5; dividing by the running deviation of the intrinsic return is left to the wrapper or algorithm
    that adds the reward to another.
    Source: Burda, Edwards, Storkey & Klimov, arXiv 1810.12894, §2.2–2.4.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        latent_dim: d; 512 in the paper, for Atari's images.
        hidden_sizes: of f, between SB3's features extractor and its output.
        predictor_hidden_sizes: of f̂; by default ``hidden_sizes`` and two more layers, as in the paper.
        update_proportion: fraction of a batch that f̂ learns from, sampled in each epoch; None for the paper's
            min(1, 32 / n_envs), with which the number of gradient steps does not depend on the number of environments.
        features_extractor_class: SB3 features extractor, as in SB3's policies, one each for f and f̂; None: see
            :class:`Encoder`.
        features_extractor_kwargs: its constructor arguments.
        **kwargs: of :class:`NetworkReward`; the learning rate 1e-4 is the paper's.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        latent_dim: int = 128,
        hidden_sizes: Sequence[int] = (256,),
        predictor_hidden_sizes: Sequence[int] | None = None,
        update_proportion: float | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            1,
            latent_dim,
            hidden_sizes,
            predictor_hidden_sizes,
            update_proportion,
            features_extractor_class,
            features_extractor_kwargs,
            **kwargs,
        )

    def bonus(self, observations: Any) -> Tensor:
        return (self.predictor(observations) - self.targets[0](observations)).square().mean(1)

    def loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        return self.bonus(batch.next_observations).mean(), {}


@register("drnd")
class DRND(_Distillation):
    """Distributional random network distillation: r = α b₁ + (1 − α) b₂.

    With N fixed random networks c₁ … c_N, their mean μ(s′) and second moment B₂(s′)::

        b₁ = ‖f̂ − μ‖²        b₂ = √y        y = (‖f̂‖² − ‖μ‖²) / (B₂ − ‖μ‖²)    see pseudo_count

    and f̂ learns, at every visit, the output of one of the N networks, sampled at random. After n visits a perfect learner
    predicts the mean of n samples; y then estimates 1/n without bias (the paper's lemma), so b₂ behaves like the 1/√n of
    counts where b₁ has vanished.
    Source: Yang, Tao, Lyu & Li, arXiv 2401.09750.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        n_targets: N, at least 2; 10 in the paper.
        alpha: α, in [0, 1]; 0.9 in the paper.
        latent_dim: number of outputs of each network; 32 is the authors' choice for vectors.
        hidden_sizes: of the N networks, between SB3's features extractor and their outputs.
        predictor_hidden_sizes: of f̂; by default ``hidden_sizes`` and two more layers, as in the authors' program.
        update_proportion: fraction of a batch that f̂ learns from, as in :class:`RND`.
        features_extractor_class: SB3 features extractor, one for each network, as in :class:`RND`.
        features_extractor_kwargs: its constructor arguments.
        **kwargs: of :class:`NetworkReward`; the learning rate 1e-4 is the paper's.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_targets: int = 10,
        alpha: float = 0.9,
        latent_dim: int = 32,
        hidden_sizes: Sequence[int] = (128,),
        predictor_hidden_sizes: Sequence[int] | None = None,
        update_proportion: float | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_range("n_targets", n_targets, 2, integer=True, schedule=False, meaning="a distribution needs two")
        check_range("alpha", alpha, 0, 1, schedule=False)
        super().__init__(
            observation_space,
            action_space,
            n_targets,
            latent_dim,
            hidden_sizes,
            predictor_hidden_sizes,
            update_proportion,
            features_extractor_class,
            features_extractor_kwargs,
            **kwargs,
        )
        self.alpha = alpha

    def _targets_of(self, observations: Any) -> Tensor:
        """Return ``[N, n, d]``, in a loop over networks: it allows any extractor, and vmap was no faster on a CPU."""
        return torch.stack([target(observations) for target in self.targets])

    def bonus(self, observations: Any) -> Tensor:
        prediction, targets = self.predictor(observations), self._targets_of(observations)
        b1 = (prediction - targets.mean(0)).square().sum(1)
        b2 = pseudo_count(prediction, targets).clamp(0, 1).sqrt()
        return self.alpha * b1 + (1 - self.alpha) * b2

    def loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        targets = self._targets_of(batch.next_observations)
        n = targets.shape[1]
        sampled = torch.randint(len(targets), (n,), device=targets.device)
        chosen = targets[sampled, torch.arange(n, device=targets.device)]
        return (self.predictor(batch.next_observations) - chosen).square().mean(), {}


def pseudo_count(prediction: Tensor, targets: Tensor) -> Tensor:
    """Return DRND's estimate y of 1/n, n the number of visits: y = (‖f‖² − ‖μ‖²) / (B₂ − ‖μ‖²) ``[n]``.

    μ is the mean of the N networks' outputs and B₂ the mean of their squared norms. If f is the mean of n samples of them,
    E ‖f‖² = ‖μ‖² + (B₂ − ‖μ‖²) / n, so E y = 1/n. The paper writes scalars; squared norms of vectors keep the estimate
    unbiased, while the authors' program averages √|y| over the d entries, which does not. y is not clipped: an estimate may
    lie outside [0, 1]. Where all networks agree, y is 0.

    Args:
        prediction: f, ``[n, d]``.
        targets: outputs of the N networks, ``[N, n, d]``.
    """
    mean = targets.mean(0)
    centred_square = (prediction.square() - mean.square()).sum(1)
    variance = (targets - mean).square().mean(0).sum(1)  # B₂ − ‖μ‖², without the difference of two large numbers
    return torch.where(variance > 0, centred_square / variance.clamp(min=torch.finfo(variance.dtype).tiny), 0.0)
