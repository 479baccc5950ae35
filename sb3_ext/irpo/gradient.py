"""The mathematics of IRPO for one policy; batch it over K policies with ``torch.func.vmap``.

Cho & Tran, "Intrinsic Reward Policy Optimization", arXiv 2601.21391:

    θ̃^(j+1) = θ̃^(j) + α ∇J_R̃(θ̃^(j)),   ∇J_IRPO(θ) = Σ_k ω_k (∇_θ θ̃_k^(N))ᵀ ∇J_R(θ̃_k^(N))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from sb3_ext.common.distributions import ActionDistribution
from sb3_ext.common.optimizers import SGD, Adam, Params, clip_by_global_norm

Surrogate = Literal["ratio", "log_prob"]
Actor = Callable[[Params, Any], Tensor]  # (parameters, observations [R, ...]) -> distribution parameters [R, P]


class SurrogateBatch(NamedTuple):
    """Batch of one policy's surrogate objective, over R rows (distinct observation-action pairs, or transitions).

    Attributes:
        observations: ``[R, ...]``, preprocessed.
        actions: ``[R, n_actions]``.
        weights: ``[R]``, sum of Â over the row's transitions, divided by the number of transitions in the batch.
        shares: ``[R]``, the row's share of the transitions.
        old_log_prob: ``[R]``, log π(a | s) of the policy that collected the batch.
    """

    observations: Any
    actions: Tensor
    weights: Tensor
    shares: Tensor
    old_log_prob: Tensor


def surrogate_objective(
    params: Params,
    batch: SurrogateBatch,
    actor: Actor,
    distribution: ActionDistribution,
    surrogate: Surrogate = "ratio",
    ent_coef: float = 0.0,
) -> Tensor:
    """Return E[π/π_old · Â] (``"ratio"``) or E[log π · Â] (``"log_prob"``), plus ``ent_coef`` times the mean entropy.

    Both have the gradient of J at π = π_old. The ratio's second derivative is E[(∇² log π + ∇log π ∇log πᵀ) Â], the
    log-probability form lacks the second term. For episodes of one step the former is ∇²J; for longer ones ∇²J has products
    ∇log π_t ∇log π_t′ᵀ of different steps besides, which neither form has.

    Args:
        params: θ, by parameter name.
        batch: the rows.
        actor: the function from parameters and observations to distribution parameters.
        distribution: the action distribution.
        surrogate: which of the two forms.
        ent_coef: coefficient of the entropy.
    """
    outputs = actor(params, batch.observations)
    log_prob = distribution.log_prob(outputs, batch.actions)
    quantity = torch.exp(log_prob - batch.old_log_prob) if surrogate == "ratio" else log_prob
    objective = (quantity * batch.weights).sum()
    if ent_coef:
        objective = objective + ent_coef * (distribution.entropy(outputs) * batch.shares).sum()
    return objective


def surrogate_gradient(params: Params, batch: SurrogateBatch, max_grad_norm: float | None = None, **kwargs: Any) -> Params:
    """Return the gradient of :func:`surrogate_objective` (ascent), clipped to a global norm inside the graph.

    Args:
        params: θ, by parameter name.
        batch: the rows.
        max_grad_norm: clip, or None.
        **kwargs: further arguments of :func:`surrogate_objective`.
    """
    return clip_by_global_norm(grad(surrogate_objective)(params, batch, **kwargs), max_grad_norm)


def exploratory_update(
    params: Params,
    batch: SurrogateBatch,
    learning_rate: float,
    max_grad_norm: float | None = None,
    optimizer: Literal["sgd", "adam"] = "sgd",
    step: int = 0,
    **kwargs: Any,
) -> Params:
    """Return θ̃ after one update on an intrinsic reward, differentiable in θ̃ and, for Adam, in its moments.

    Args:
        params: θ̃; with ``"adam"`` also its moments, as entries ``m/<name>`` and ``v/<name>``.
        batch: the rows, with intrinsic advantages.
        learning_rate: α.
        max_grad_norm: clip of the gradient, inside the graph.
        optimizer: ``"sgd"`` (the paper's): θ̃ + α · clip(∇J_R̃(θ̃)); or ``"adam"`` on the same gradient.
        step: number of updates before this one, for Adam's bias correction.
        **kwargs: further arguments of :func:`surrogate_gradient`.
    """
    weights = {name: value for name, value in params.items() if not name.startswith(("m/", "v/"))}
    ascent = surrogate_gradient(weights, batch, max_grad_norm, **kwargs)
    loss_gradient = {name: -value for name, value in ascent.items()}
    if optimizer == "sgd":
        return SGD(learning_rate).update(weights, loss_gradient, {})[0]
    moments = {m: {name: params[f"{m}/{name}"] for name in weights} for m in "mv"}
    new, state = Adam(learning_rate).update(weights, loss_gradient, moments | {"step": step})
    return new | {f"{m}/{name}": value for m in "mv" for name, value in state[m].items()}
