"""Novelty by distillation: a predictor learns what fixed random networks say of the states it is shown.

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
    """A predictor f̂ and N fixed random networks, all of them on normalised s′ only. Subclasses price the difference."""

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
            # Both programs do so; with torch's own initialisation the biases would drown what differs between states.
            return encoder.apply(partial(BasePolicy.init_weights, gain=2**0.5))

        self.targets = nn.ModuleList([network(hidden_sizes) for _ in range(n_targets)]).requires_grad_(False)
        self.predictor = network(predictor_hidden_sizes)
        self._make_optimizer(self.predictor.parameters())

    def _rows_to_learn(self, n: int, n_envs: int) -> Tensor:
        proportion = min(1.0, 32 / n_envs) if self.update_proportion is None else self.update_proportion
        return super()._rows_to_learn(n, n_envs)[: max(1, round(proportion * n))]

    @torch.no_grad()
    def compute(self, batch: Transitions) -> Tensor:
        paid = in_chunks(lambda x: self.bonus(self.normalizer(x)), flatten_steps(batch.next_observations))
        return paid.view(batch.n_steps, batch.n_envs, 1)

    def bonus(self, observations: Any) -> Tensor:
        """``[n]`` of normalised observations."""
        raise NotImplementedError


@register("rnd")
class RND(_Distillation):
    """Random network distillation: r = ‖f̂(s′) − f(s′)‖² / d, with f a fixed random network of d outputs.

    The predictor f̂ minimises the same error over what is visited, so the error falls there and stays elsewhere. Dividing by d
    is what the authors' program does (the paper writes the norm alone): the scale does not depend on ``latent_dim``.
    Source: Burda, Edwards, Storkey & Klimov, arXiv 1810.12894, §2.2–2.4. Observations are normalised and clipped to ±5;
    the running deviation of the intrinsic return is the business of whoever adds the reward to another.

    Args:
        latent_dim: d; 512 in the paper, for Atari's images.
        hidden_sizes: of f, between SB3's feature extractor and its output.
        predictor_hidden_sizes: of f̂; by default ``hidden_sizes`` and two more layers, as in the paper.
        update_proportion: the share of a batch, drawn anew each epoch, that f̂ learns from; None for the paper's
            min(1, 32 / copies), which keeps the number of its gradient steps as copies are added.
        features_extractor_class, features_extractor_kwargs: as in SB3's policies; f and f̂ each have one of their own.
        kwargs: those of :class:`NetworkReward`; the learning rate 1e-4 is the paper's.
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

    and f̂ learns, at every visit, the output of one of the N drawn at random. After n visits a perfect learner says the mean of
    n draws; y then estimates 1/n without bias (the paper's lemma), so b₂ behaves like a count's 1/√n where b₁ has vanished.
    Source: Yang, Tao, Lyu & Li, arXiv 2401.09750.

    Args:
        n_targets: N; 10 in the paper.
        alpha: α; 0.9 in the paper.
        latent_dim, hidden_sizes: of the N networks; 32 is the authors' choice for vectors.
        predictor_hidden_sizes: of f̂; by default ``hidden_sizes`` and two more layers, as in the authors' program.
        update_proportion, features_extractor_class, features_extractor_kwargs, kwargs: as in :class:`RND`.
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
        """``[N, n, d]``. A loop over networks, not environments: any extractor will do, and vmap was no faster on a CPU."""
        return torch.stack([target(observations) for target in self.targets])

    def bonus(self, observations: Any) -> Tensor:
        prediction, targets = self.predictor(observations), self._targets_of(observations)
        b1 = (prediction - targets.mean(0)).square().sum(1)
        b2 = pseudo_count(prediction, targets).clamp(0, 1).sqrt()
        return self.alpha * b1 + (1 - self.alpha) * b2

    def loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        targets = self._targets_of(batch.next_observations)
        n = targets.shape[1]
        drawn = torch.randint(len(targets), (n,), device=targets.device)
        chosen = targets[drawn, torch.arange(n, device=targets.device)]
        return (self.predictor(batch.next_observations) - chosen).square().mean(), {}


def pseudo_count(prediction: Tensor, targets: Tensor) -> Tensor:
    """y = (‖f‖² − ‖μ‖²) / (B₂ − ‖μ‖²) ``[n]``, of f ``[n, d]`` and the N networks' outputs ``[N, n, d]``.

    μ is their mean and B₂ the mean of their squared norms. If f is the mean of n draws among them, E ‖f‖² = ‖μ‖² +
    (B₂ − ‖μ‖²) / n, so E y = 1/n. The paper writes a scalar; of a vector this takes squared norms, which keeps the estimate
    unbiased, where the authors' program averages √|y| over the d entries, which doesn't. Not clipped: one estimate may lie
    outside of [0, 1]. Where the networks agree altogether, y is 0.
    """
    mean = targets.mean(0)
    centred_square = (prediction.square() - mean.square()).sum(1)
    variance = (targets - mean).square().mean(0).sum(1)  # B₂ − ‖μ‖², without the difference of two large numbers
    return torch.where(variance > 0, centred_square / variance.clamp(min=torch.finfo(variance.dtype).tiny), 0.0)
