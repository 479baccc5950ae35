"""Weighted sums of gradients: of the K exploratory policies, and of the IRPO gradient and the true one.

These functions take parameter dicts; gradients of K policies are stacked ``[K, ...]``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sb3_ext.common.optimizers import Params, global_norm

Blend = Literal["abrupt", "exponential", "agreement", "switch"]
BLENDS: tuple[Blend, ...] = ("abrupt", "exponential", "agreement", "switch")
LONGEST_DIRECT_RUN = 32  # iterations on the true gradient before the next one that explores


def weights_at(returns: Tensor, temperature: float) -> Tensor:
    """Return ω ``[K]``: softmax(``returns`` ``[K]`` / temperature); at 0 or below one-hot of the best, at infinity uniform."""
    if temperature > 0:
        return torch.softmax(returns / temperature, 0)
    return torch.nn.functional.one_hot(returns.argmax(), len(returns)).to(returns.dtype)


def weighted_sum(weights: Tensor, gradients: Params) -> Params:
    """Return Σ_k ω_k g_k for gradients ``[K, ...]``."""
    return {name: torch.einsum("k,k...->...", weights, value) for name, value in gradients.items()}


def scaled(weights: Tensor, gradients: Params) -> Params:
    """Return ω_k g_k, ``[K, ...]``."""
    return {name: torch.einsum("k,k...->k...", weights, value) for name, value in gradients.items()}


def inner_product(one: Params, other: Params) -> Tensor:
    """Return ⟨g, h⟩ over all entries."""
    return sum(((value * other[name]).sum() for name, value in one.items()), start=torch.zeros(()))


def cosine(one: Params, other: Params) -> float:
    """Return the cosine between two gradients; 0 if one of them is 0."""
    norms = global_norm(one) * global_norm(other)
    return float(inner_product(one, other) / norms) if norms > 0 else 0.0


def blend_gradients(irpo: Params, direct: Params, share: float) -> Params:
    """Return the direction (1 − β) ĝ_IRPO + β ĝ_true of the unit vectors, with the same mean of the two lengths.

    The lengths are not comparable (one gradient went through N clipped updates), and a trust region uses the direction alone.

    Args:
        irpo: the IRPO gradient.
        direct: the true gradient. If one of the two is 0, the other is returned.
        share: β, of the true gradient.
    """
    lengths = float(global_norm(irpo)), float(global_norm(direct))
    if not all(lengths):
        return irpo if lengths[0] else direct
    length = (1 - share) * lengths[0] + share * lengths[1]
    return {
        name: length * ((1 - share) / lengths[0] * value + share / lengths[1] * direct[name]) for name, value in irpo.items()
    }


def share_of_direct(
    blend: Blend, progress: float, start: float, irpo: Params, direct: Params, halves: tuple[Params, Params]
) -> float:
    """Return β of :func:`blend_gradients`.

    * ``"abrupt"``: 0, then 1 from ``start`` of training on.
    * ``"exponential"``: 1 − ½^(progress / start).
    * ``"agreement"``: the cosine between the true gradients of two halves of the base policy's batch, at least 0. Its
      numerator estimates ‖∇J‖² without bias and its denominator adds the noise, so it is the share of signal in the true
      gradient: 0 while the batch contains no reward, towards 1 as rewards become frequent.
    * ``"switch"``: 0 in an iteration that explores (:func:`direct_run` gives the length of a run of the others).

    Args:
        blend: the rule.
        progress: share of training that is done, 0 to 1.
        start: ``blend_start`` of the settings.
        irpo: the IRPO gradient.
        direct: the true gradient.
        halves: the true gradients of the two halves of the batch.
    """
    if blend == "abrupt":
        return float(progress >= start)
    if blend == "exponential":
        return 1 - 0.5 ** (progress / start)
    if blend == "agreement":
        return max(0.0, cosine(*halves))
    return 0.0


def direct_run(last_run: int, base_return: float, best_return: float) -> int:
    """Return how many iterations on the true gradient follow one that explored, for ``blend="switch"``.

    0 unless the base policy received a reward and its return is at least that of the best exploratory policy; then 1, 2, 4, …
    up to 32, doubled each time exploration confirms it. Such an iteration takes one batch, not 1 + K·N.

    Args:
        last_run: the result after the last iteration that explored.
        base_return: mean discounted return of the base policy.
        best_return: that of the best exploratory policy.
    """
    if base_return <= 0 or base_return < best_return:
        return 0
    return min(max(1, 2 * last_run), LONGEST_DIRECT_RUN)
