"""The trust-region step: conjugate gradients on the Fisher matrix, then backtracking on the KL divergence.

Schulman et al. (2015), arXiv 1502.05477. Two details differ from sb3-contrib's solver: conjugate gradients
start from zero, and a zero gradient takes no step, because a step that is accepted on its KL alone would then be random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vjp

from sb3_ext.common.optimizers import Params


class TrustRegionResult(NamedTuple):
    """Result of a trust-region step.

    Attributes:
        params: parameters after the step; those before if no step was accepted.
        kl: divergence of the step in nats.
        backtracks: how often the step was shrunk.
        accepted: whether a step was accepted; False if the gradient is zero.
    """

    params: Params
    kl: float
    backtracks: int
    accepted: bool


def flatten(tree: Params) -> Tensor:
    """Return parameters as one vector."""
    return torch.cat([value.reshape(-1) for value in tree.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """Return a vector as parameters with the names and shapes of ``like``."""
    parts = vector.split([value.numel() for value in like.values()])
    return {name: part.view_as(value) for part, (name, value) in zip(parts, like.items(), strict=True)}


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], b: Tensor, max_steps: int = 10, residual_tolerance: float = 1e-10
) -> Tensor:
    """Solve A x = b for a symmetric positive definite A given by ``product(v) = A v``, from x = 0.

    b = 0 gives exactly 0.

    Args:
        product: v → A v.
        b: right-hand side.
        max_steps: largest number of steps.
        residual_tolerance: stop when ‖b − A x‖² ≤ residual_tolerance · ‖b‖².
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    squared = residual @ residual
    goal = residual_tolerance * squared
    for _ in range(max_steps):
        if squared <= goal:
            break
        image = product(direction)
        step = squared / (direction @ image)
        x, residual = x + step * direction, residual - step * image
        previous, squared = squared, residual @ residual
        direction = residual + (squared / previous) * direction
    return x


def trust_region_step(
    params: Params,
    gradient: Params,
    kl_divergence: Callable[[Params], Tensor],
    max_kl: float,
    *,
    cg_max_steps: int = 10,
    cg_damping: float = 0.1,
    shrinking_factor: float = 0.7,
    max_backtracks: int = 15,
) -> TrustRegionResult:
    """Move ``params`` along s ≈ (H + damping)⁻¹ g with length √(2 max_kl / sᵀ(H + damping)s), shrunk until KL ≤ max_kl.

    Args:
        params: θ.
        gradient: ascent direction g (of an objective to be maximised).
        kl_divergence: mean KL(π_θ ‖ π_·) as a function of the parameters; H is its Hessian at θ.
        max_kl: δ in nats; the only acceptance test.
        cg_max_steps: largest number of conjugate-gradient steps.
        cg_damping: number added to the diagonal of H.
        shrinking_factor: factor by which the line search shrinks the step.
        max_backtracks: largest number of steps of the line search.
    """
    g = flatten(gradient)
    if not torch.isfinite(g).all():
        raise ValueError(
            "The gradient of the trust-region step is not finite; check rewards, observations and learning rates."
        )
    if not g.any():
        return TrustRegionResult(params, 0.0, 0, False)

    pull_back = vjp(grad(kl_divergence), params)[1]  # H v for every v; H is symmetric

    def damped_hessian_product(vector: Tensor) -> Tensor:
        return flatten(pull_back(unflatten(vector, params))[0]).detach() + cg_damping * vector

    direction = conjugate_gradients(damped_hessian_product, g, cg_max_steps)
    step = direction * torch.sqrt(2 * max_kl / (direction @ damped_hessian_product(direction)))
    with torch.no_grad():
        for backtracks in range(max_backtracks):
            scaled = unflatten(step * shrinking_factor**backtracks, params)
            candidate = {name: value + scaled[name] for name, value in params.items()}
            kl = float(kl_divergence(candidate))
            if kl <= max_kl:
                return TrustRegionResult(candidate, kl, backtracks, True)
    return TrustRegionResult(params, 0.0, max_backtracks, False)
