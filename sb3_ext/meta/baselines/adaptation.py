"""The mathematics of MAML with a policy gradient inside (Finn, Abbeel & Levine 2017, arXiv 1703.03400).

    θ'_i = θ + α ∇_θ J_i(θ),   maximise (1/B) Σ_i J_i(θ'_i)

J is the surrogate of the importance ratio, in both places: where the policy is the one that collected, it has the gradient of
the return, and away from there, inside a line search, the adaptation still uses its data rightly.
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

    observations ``[T, B, n_obs]``; actions ``[T, B, n_actions]``; outputs ``[T, B, P]``, the distribution parameters that they
    were drawn with; advantages ``[T, B]``.
    """

    observations: Tensor
    actions: Tensor
    outputs: Tensor
    advantages: Tensor


class Learner(NamedTuple):
    """What adapts: ``actor``, its ``distribution`` and the ``learning_rate`` α. Parameters are given to its functions."""

    actor: Actor
    distribution: ActionDistribution
    learning_rate: float

    def adapt(self, theta: Params, inner: Sequence[TaskData], n_tasks: int) -> Params:
        """θ' of each task ``[B, ...]``: a gradient step for each of ``inner``; differentiable in θ."""
        params = {name: value.expand(n_tasks, *value.shape) for name, value in theta.items()}
        for data in inner:
            params = vmap(self._step, in_dims=(0, 1))(params, data)
        return params

    def objective(self, theta: Params, inner: Sequence[TaskData], outer: TaskData) -> Tensor:
        """(1/B) Σ_i E[π_θ'_i / π_old · Â]: what the outer step climbs."""
        params = self.adapt(theta, inner, outer.actions.shape[1])
        return vmap(self._surrogate, in_dims=(0, 1))(params, outer).mean()

    def kl_divergence(self, theta: Params, inner: Sequence[TaskData], outer: TaskData) -> Tensor:
        """Mean over tasks and their states of KL(π_old ‖ π_θ'_i) in nats, the policies after adaptation."""
        params = self.adapt(theta, inner, outer.actions.shape[1])
        outputs = vmap(self.actor, in_dims=(0, 1), out_dims=1)(params, outer.observations)
        return self.distribution.kl_divergence(outer.outputs, outputs).mean()

    def act(self, params: Params, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One step on each task: distribution parameters ``[B, P]`` and the actions drawn with them ``[B, n_actions]``.

        Args:
            params: ``[B, ...]``. observations: ``[B, n_obs]``. noise: from ``distribution.draw_noise((B,), …)``.
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
