"""Meta-gradient through an agent's PPO update: how its next policy changes with its rewards or advantages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sb3_ext.common.meta_gradient import InnerLoss, Optimizer, meta_gradient
from sb3_ext.common.optimizers import SGD, Params, State, clip_by_each_norm, optimizer_from
from sb3_ext.meta.lifetimes.inner_agents import InnerAgents, InnerBatch, Minibatch


class InnerUpdate(NamedTuple):
    """An update that B agents are about to make.

    Attributes:
        params: weights of the agents ``[B, ...]``.
        optimizer: their Adam, as a differentiable function.
        state: of the optimiser ``[B, ...]``.
        batch: as in ``InnerAgents.update``.
        last_observations: as in ``InnerAgents.update``.
        order: as in ``InnerAgents.update``.
        are_advantages: as in ``InnerAgents.update``.
    """

    params: Params
    optimizer: Optimizer
    state: State
    batch: InnerBatch
    last_observations: Tensor
    order: Tensor
    are_advantages: bool

    @classmethod
    def of(
        cls, agents: InnerAgents, batch: InnerBatch, last_observations: Tensor, order: Tensor, are_advantages: bool = False
    ) -> InnerUpdate:
        """Return the update with these arguments of ``InnerAgents.update``, and clones of all that it will change.

        Args:
            agents: the agents.
            batch: the steps.
            last_observations: observations after the batch.
            order: of the steps in minibatches.
            are_advantages: whether the batch holds advantages.
        """
        optimizer, state = optimizer_from(agents.optimizer, agents.params)
        cloned = {name: _cloned(value) if isinstance(value, dict) else value for name, value in state.items()}
        return cls(_cloned(agents.params), optimizer, cloned, batch, last_observations, order, are_advantages)

    def advantages(self, agents: InnerAgents, rewards: Tensor) -> Tensor:
        """Return the agents' advantages with other rewards ``[T, B]``, differentiable in the rewards.

        Args:
            agents: the agents.
            rewards: in place of those of the batch ``[T, B]``.
        """
        if self.are_advantages:
            return rewards
        return agents.advantages(replace(self.batch, rewards=rewards), self.last_observations, self.params)[0]


class AdvantageGradient(NamedTuple):
    """Result of :func:`advantage_gradient`.

    Attributes:
        gradient: of each agent's outer loss in the advantages that it learns from ``[T, B]``.
        outer_loss: sum of the outer losses ``[]``.
        params: weights after the unrolled steps ``[B, ...]``.
    """

    gradient: Tensor
    outer_loss: Tensor
    params: Params


def advantage_gradient(
    agents: InnerAgents,
    update: InnerUpdate,
    advantages: Tensor,
    outer: Minibatch,
    n_unroll: int,
    learning_rate: float | None = None,
) -> AdvantageGradient:
    """Return d(outer loss)/d(advantages) through the first ``n_unroll`` minibatch steps of an update.

    The outer loss is PPO's clipped one at the weights after these steps. The gradient in the parameters of a reward network is
    this one, pulled back through :meth:`InnerUpdate.advantages`.

    Args:
        agents: their networks and settings; the weights are those of ``update``.
        update: the update.
        advantages: from which the agents learn ``[T, B]``.
        outer: steps ``[B, m]`` with the advantages of the task's own reward.
        n_unroll: number of minibatch steps that are differentiated.
        learning_rate: of plain gradient steps; None: the steps of ``InnerAgents.update``, with each agent's gradient clipped,
            and Adam's second moment without a gradient, as in LIRPG's program (Zheng, Oh & Singh, arXiv 1804.06459).
    """
    optimizer: Optimizer = _EachClipped(update.optimizer, agents.settings.max_grad_norm)
    state = update.state
    if learning_rate is not None:
        optimizer, state = SGD(learning_rate), {}

    def inner_loss(steps: Tensor) -> InnerLoss:
        def loss(theta: Params, _: Params, given: Params) -> Tensor:
            inner = given["advantages"]
            returns = None if update.are_advantages else inner + update.batch.values
            return agents.loss(agents.minibatch(update.batch, inner, returns, steps), theta).sum()

        return loss

    def outer_loss(theta: Params, _: Params) -> Tensor:
        return agents.policy_loss(outer.observations, outer.actions, outer.log_probs, outer.advantages, theta).sum()

    result = meta_gradient(
        update.params,
        {"advantages": advantages},
        [inner_loss(steps) for steps in agents.minibatch_steps(update.order)[:n_unroll]],
        outer_loss,
        optimizer,
        state,
        terms=("reward", "multi_step"),
    )
    return AdvantageGradient(result.gradient["advantages"], result.outer_loss, result.params)


@dataclass(frozen=True)
class _EachClipped:
    """Optimiser of B stacked agents that clips each agent's gradient by its own norm before the step."""

    optimizer: Optimizer
    max_norm: float | None

    def update(self, params: Params, grads: Params, state: State) -> tuple[Params, State]:
        return self.optimizer.update(params, clip_by_each_norm(grads, self.max_norm), state)


def _cloned(tree: Params) -> Params:
    return {name: torch.clone(value.detach()) for name, value in tree.items()}
