"""The mathematics of MAML with a policy gradient inside (Finn, Abbeel & Levine 2017, arXiv 1703.03400).

    θ'_i = θ + α ∇_θ J_i(θ),   maximise (1/B) Σ_i J_i(θ'_i)

J is the surrogate of the importance ratio, in both places: at the policy that collected the data it has the gradient of the
return, and elsewhere, in a line search, the adaptation still corrects for the policy that collected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from sb3_ext.common.distributions import ActionDistribution
from sb3_ext.common.optimizers import SGD, Params

Actor = Callable[[Params, Tensor], Tensor]  # (parameters, observations [T, n_obs]) -> distribution parameters [T, P]


class TaskData(NamedTuple):
    """T steps on each of B tasks; of one task, without the B.

    Attributes:
        observations: ``[T, B, n_obs]``.
        actions: ``[T, B, n_actions]``.
        outputs: distribution parameters with which the actions were sampled ``[T, B, P]``.
        advantages: ``[T, B]``.
    """

    observations: Tensor
    actions: Tensor
    outputs: Tensor
    advantages: Tensor


class Learner(NamedTuple):
    """A policy that adapts; its functions take the parameters.

    Attributes:
        actor: function (parameters, observations ``[T, n_obs]``) → distribution parameters ``[T, P]``.
        distribution: of the actions.
        learning_rate: α.
    """

    actor: Actor
    distribution: ActionDistribution
    learning_rate: float

    def adapt(self, theta: Params, inner: Sequence[TaskData], n_tasks: int) -> Params:
        """Return θ' of each task ``[B, ...]`` after a gradient step for each of ``inner``, differentiable in θ.

        Args:
            theta: θ.
            inner: data of the steps.
            n_tasks: B.
        """
        params = {name: value.expand(n_tasks, *value.shape) for name, value in theta.items()}
        for data in inner:
            params = vmap(self._step, in_dims=(0, 1))(params, data)
        return params

    def objective(self, theta: Params, inner: Sequence[TaskData], outer: TaskData) -> Tensor:
        """Return (1/B) Σ_i E[π_θ'_i / π_old · Â], the objective of the outer step.

        Args:
            theta: θ.
            inner: data of the adaptation.
            outer: data after it.
        """
        params = self.adapt(theta, inner, outer.actions.shape[1])
        return vmap(self._surrogate, in_dims=(0, 1))(params, outer).mean()

    def kl_divergence(self, theta: Params, inner: Sequence[TaskData], outer: TaskData) -> Tensor:
        """Return the mean of KL(π_old ‖ π_θ'_i) in nats over tasks and states, of the policies after adaptation.

        Args:
            theta: θ.
            inner: data of the adaptation.
            outer: data after it.
        """
        params = self.adapt(theta, inner, outer.actions.shape[1])
        outputs = vmap(self.actor, in_dims=(0, 1), out_dims=1)(params, outer.observations)
        return self.distribution.kl_divergence(outer.outputs, outputs).mean()

    def act(self, params: Params, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return distribution parameters ``[B, P]`` and actions sampled with them ``[B, n_actions]``, for a step on each task.

        Args:
            params: of each task ``[B, ...]``.
            observations: ``[B, n_obs]``.
            noise: from ``distribution.sample_noise((B,), …)``.
        """
        outputs = vmap(self.actor)(params, observations[:, None])[:, 0]
        return outputs, self.distribution.sample(outputs, noise)

    def _step(self, params: Params, data: TaskData) -> Params:
        ascent = grad(self._surrogate)(params, data)
        return SGD(self.learning_rate).update(params, {name: -value for name, value in ascent.items()}, {})[0]

    def _surrogate(self, params: Params, data: TaskData) -> Tensor:
        log_prob = self.distribution.log_prob(self.actor(params, data.observations), data.actions)
        ratio = torch.exp(log_prob - self.distribution.log_prob(data.outputs, data.actions))
        return (ratio * data.advantages).mean()
