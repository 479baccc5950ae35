"""The meta-gradient: how an extrinsic objective after policy updates depends on the parameters of a reward.

With η the reward's parameters and θ_{k+1} = θ_k + Δ(∇_θ L_k(θ_k, η)) the policy's updates, J_ex(θ_K, η) depends on η

* *directly*: the policy that acts is conditioned on η;
* by the *mixed* term: the policy in the update's loss is conditioned on η;
* by the *reward* term: the loss's advantages are;
* by the *multi-step* term: θ_{K−1} came from updates that depend on η too, (I + α ∂²) dθ_{K−1}/dη.

LIRPG (Zheng, Oh & Singh, arXiv 1804.06459) is the reward term of a policy that does not see η; CLN (Zhang, Stadie & Ba) the
direct term of one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from sb3_ext.common.optimizers import Params, State, clip_by_global_norm

Term = Literal["direct", "mixed", "reward", "multi_step"]
TERMS: tuple[Term, ...] = ("direct", "mixed", "reward", "multi_step")

InnerLoss = Callable[[Params, Params, Params], Tensor]
"""(θ, the η that the policy sees, the η that the advantages come from) → loss of one policy update, to be minimised."""
OuterLoss = Callable[[Params, Params], Tensor]
"""(θ_K, the η that the policy sees) → extrinsic loss (of which J_ex is the negative), to be minimised."""


class Optimizer(Protocol):
    """``SGD``, ``RMSprop`` or ``Adam`` of :mod:`sb3_ext.common.optimizers`."""

    def update(self, params: Params, grads: Params, state: State) -> tuple[Params, State]: ...


class MetaGradient(NamedTuple):
    """gradient: of the outer loss in η. outer_loss: ``[]``. inner_gradients: of each inner loss in θ, before the clip. params,
    state: θ_K and the optimiser's. Nothing in it is attached to a graph."""

    gradient: Params
    outer_loss: Tensor
    inner_gradients: list[Params]
    params: Params
    state: State


def meta_gradient(
    theta: Params,
    eta: Params,
    inner_losses: Sequence[InnerLoss],
    outer_loss: OuterLoss,
    optimizer: Optimizer,
    state: State,
    *,
    terms: Collection[Term],
    max_grad_norm: float | None = None,
) -> MetaGradient:
    """The chosen terms of d(outer loss)/dη after K = ``len(inner_losses)`` policy updates.

    Each update is θ ← optimizer(θ, clip(∇_θ L_k)), differentiated whole: the clip to ``max_grad_norm`` and the optimiser's
    step included (its second moment unless the optimiser says otherwise). Without ``"multi_step"`` the updates before the last
    count as if they did not depend on η; with K = 0 there is the direct term alone.

    Args:
        theta, eta: named tensors, of which nothing is changed. state: the optimiser's before the first update.

    Raises:
        ValueError: for an unknown term.
    """
    unknown = sorted(set(terms) - set(TERMS))
    if unknown:
        raise ValueError(f"Unknown terms {unknown}; expected some of {list(TERMS)}.")
    eta = {name: value.detach().requires_grad_() for name, value in eta.items()}
    fixed = {name: value.detach() for name, value in eta.items()}
    acting, seen, paying = (eta if term in terms else fixed for term in ("direct", "mixed", "reward"))
    params = {name: value.detach().requires_grad_() for name, value in theta.items()}
    inner_gradients = []
    for k, inner_loss in enumerate(inner_losses):
        attached = "multi_step" in terms or k == len(inner_losses) - 1
        if not attached:
            gradient = _gradient(inner_loss(params, fixed, fixed), params)
        else:
            gradient = _gradient(inner_loss(params, seen, paying), params, create_graph=True)
        inner_gradients.append(detached(gradient))
        params, state = optimizer.update(params, clip_by_global_norm(gradient, max_grad_norm), state)
        if not attached:
            params = {name: value.detach().requires_grad_() for name, value in params.items()}
            state = _detached_state(state)
    loss = outer_loss(params, acting)
    gradient = _gradient(loss, eta) if loss.requires_grad else {name: torch.zeros_like(value) for name, value in eta.items()}
    return MetaGradient(gradient, loss.detach(), inner_gradients, detached(params), _detached_state(state))


def detached(tree: Params) -> Params:
    """The same values outside any graph."""
    return {name: value.detach() for name, value in tree.items()}


def _gradient(loss: Tensor, params: Params, create_graph: bool = False) -> Params:
    """∂loss/∂params; zeros where the loss does not depend on them."""
    values = torch.autograd.grad(
        loss, list(params.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(params, values, strict=True))


def _detached_state(state: State) -> State:
    return {name: detached(value) if isinstance(value, dict) else value for name, value in state.items()}
