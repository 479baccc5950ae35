"""The meta-gradient: the gradient of an extrinsic objective, after policy updates, in the parameters of a reward.

With η the reward's parameters and θ_{k+1} = θ_k + Δ(∇_θ L_k(θ_k, η)) the policy's updates, dJ_ex(θ_K, η)/dη has

* a *direct* term, where the acting policy is conditioned on η;
* a *mixed* term, where the policy in the update's loss is conditioned on η;
* a *reward* term, where the advantages in the update's loss depend on η;
* a *multi-step* term, where θ_{K−1} results from updates that depend on η, (I + α ∂²) dθ_{K−1}/dη.

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
"""(θ, η of the policy, η of the advantages) → loss ``[]`` of one policy update, to be minimised."""
OuterLoss = Callable[[Params, Params], Tensor]
"""(θ_K, η of the policy) → extrinsic loss ``[]``, the negative of J_ex, to be minimised."""


class Optimizer(Protocol):
    """An optimiser as those of :mod:`sb3_ext.common.optimizers`, whose step can be differentiated."""

    def update(self, params: Params, grads: Params, state: State) -> tuple[Params, State]:
        """Return the parameters and the state after a step."""


class MetaGradient(NamedTuple):
    """A meta-gradient and what was computed on the way; nothing in it is attached to a graph.

    Attributes:
        gradient: gradient of the outer loss in η.
        outer_loss: ``[]``.
        inner_gradients: gradient of each inner loss in θ, before the clip.
        params: θ_K.
        state: the optimiser's state after the last update.
    """

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
    """Return the chosen terms of d(outer loss)/dη after K = ``len(inner_losses)`` policy updates.

    Each update is θ ← optimizer(θ, clip(∇_θ L_k)), and all of it is differentiated: the clip to ``max_grad_norm`` and the
    optimiser's step too (with its second moment, unless the optimiser excludes it). Without ``"multi_step"`` the updates
    before the last are taken as independent of η; with K = 0 there is only the direct term.

    Args:
        theta: θ_0, tensors by name, which are not changed.
        eta: η, tensors by name, which are not changed.
        inner_losses: L_0 … L_{K−1}.
        outer_loss: the negative of J_ex.
        optimizer: of the policy.
        state: the optimiser's state before the first update.
        terms: some of :data:`TERMS`.
        max_grad_norm: largest norm of ∇_θ L_k; None for no clip.

    Raises:
        ValueError: for an unknown term.
    """
    unknown = sorted(set(terms) - set(TERMS))
    if unknown:
        raise ValueError(f"Unknown terms {unknown}; expected some of {list(TERMS)}.")
    eta = {name: value.detach().requires_grad_() for name, value in eta.items()}
    fixed = {name: value.detach() for name, value in eta.items()}
    acting, seen, rewarding = (eta if term in terms else fixed for term in ("direct", "mixed", "reward"))
    params = {name: value.detach().requires_grad_() for name, value in theta.items()}
    inner_gradients = []
    for k, inner_loss in enumerate(inner_losses):
        attached = "multi_step" in terms or k == len(inner_losses) - 1
        if not attached:
            gradient = _gradient(inner_loss(params, fixed, fixed), params)
        else:
            gradient = _gradient(inner_loss(params, seen, rewarding), params, create_graph=True)
        inner_gradients.append(detached(gradient))
        params, state = optimizer.update(params, clip_by_global_norm(gradient, max_grad_norm), state)
        if not attached:
            params = {name: value.detach().requires_grad_() for name, value in params.items()}
            state = _detached_state(state)
    loss = outer_loss(params, acting)
    gradient = _gradient(loss, eta) if loss.requires_grad else {name: torch.zeros_like(value) for name, value in eta.items()}
    return MetaGradient(gradient, loss.detach(), inner_gradients, detached(params), _detached_state(state))


def detached(tree: Params) -> Params:
    """Return the same values outside any graph."""
    return {name: value.detach() for name, value in tree.items()}


def _gradient(loss: Tensor, params: Params, create_graph: bool = False) -> Params:
    """Return ∂loss/∂params, zeros where the loss does not depend on them."""
    values = torch.autograd.grad(
        loss, list(params.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(params, values, strict=True))


def _detached_state(state: State) -> State:
    return {name: detached(value) if isinstance(value, dict) else value for name, value in state.items()}
