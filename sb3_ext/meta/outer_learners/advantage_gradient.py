"""How much each agent's next policy would gain by a change of what it is paid: a meta-gradient through its PPO update."""

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

    params: their weights ``[B, ...]``. optimizer, state: of Adam, the state ``[B, ...]`` too. batch, last_observations, order,
    are_advantages: as in :meth:`InnerAgents.update`.
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
        """The update of these arguments, with copies of all that it will change."""
        optimizer, state = optimizer_from(agents.optimizer, agents.params)
        copies = {name: _copied(value) if isinstance(value, dict) else value for name, value in state.items()}
        return cls(_copied(agents.params), optimizer, copies, batch, last_observations, order, are_advantages)

    def advantages(self, agents: InnerAgents, payments: Tensor) -> Tensor:
        """What the agents would learn from, were they paid otherwise; ``[T, B]`` both, differentiable in the payments."""
        if self.are_advantages:
            return payments
        return agents.advantages(replace(self.batch, rewards=payments), self.last_observations, self.params)[0]


class AdvantageGradient(NamedTuple):
    """gradient: of each agent's outer loss in the advantages that it learns from ``[T, B]``. outer_loss ``[]``: the sum of
    them. params: the weights after the unrolled steps."""

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
    """d(outer loss)/d(advantages) through the first ``n_unroll`` minibatch steps of an update.

    The outer loss is PPO's clipped one at the weights after these steps. The gradient in the parameters of a reward network is
    this one, pulled back through :meth:`InnerUpdate.advantages`.

    Args:
        agents: only their shape and settings count. advantages: ``[T, B]``, what the agents learn from.
        outer: steps ``[B, m]`` and the task's own advantages of them.
        learning_rate: of plain gradient steps; ``None``: those of :meth:`InnerAgents.update`, each agent's gradient clip
            included, and Adam's second moment without a gradient, as in LIRPG's program (Zheng, Oh & Singh, arXiv 1804.06459).
    """
    optimizer: Optimizer = _EachClipped(update.optimizer, agents.settings.max_grad_norm)
    state = update.state
    if learning_rate is not None:
        optimizer, state = SGD(learning_rate), {}

    def inner_loss(steps: Tensor) -> InnerLoss:
        def loss(theta: Params, _: Params, paying: Params) -> Tensor:
            given = paying["advantages"]
            returns = None if update.are_advantages else given + update.batch.values
            return agents.loss(agents.minibatch(update.batch, given, returns, steps), theta).sum()

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
    """An optimiser of B stacked agents, which clips the gradient of each by its own norm before its step."""

    optimizer: Optimizer
    max_norm: float | None

    def update(self, params: Params, grads: Params, state: State) -> tuple[Params, State]:
        return self.optimizer.update(params, clip_by_each_norm(grads, self.max_norm), state)


def _copied(tree: Params) -> Params:
    return {name: torch.clone(value.detach()) for name, value in tree.items()}
