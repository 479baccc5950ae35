"""One ascent direction from several: channels by their contribution, and the IRPO gradient with the true one.

Everything here works on parameter dicts; gradients of K policies are stacked ``[K, ...]``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sb3_ext.common.optimizers import Params, global_norm

Blend = Literal["abrupt", "exponential", "agreement", "switch"]
BLENDS: tuple[Blend, ...] = ("abrupt", "exponential", "agreement", "switch")
LONGEST_DIRECT_RUN = 32  # iterations on the true gradient before exploration is asked again


def weights_at(returns: Tensor, temperature: float) -> Tensor:
    """ω ``[K]``: the softmax of returns ``[K]`` / temperature; the best alone at 0 or below, all alike at infinity."""
    if temperature > 0:
        return torch.softmax(returns / temperature, 0)
    return torch.nn.functional.one_hot(returns.argmax(), len(returns)).to(returns.dtype)


def weighted_sum(weights: Tensor, gradients: Params) -> Params:
    """Σ_k ω_k g_k of gradients ``[K, ...]``."""
    return {name: torch.einsum("k,k...->...", weights, value) for name, value in gradients.items()}


def scaled(weights: Tensor, gradients: Params) -> Params:
    """ω_k g_k, still ``[K, ...]``."""
    return {name: torch.einsum("k,k...->k...", weights, value) for name, value in gradients.items()}


def inner_product(one: Params, other: Params) -> Tensor:
    """⟨g, h⟩ over all entries."""
    return sum(((value * other[name]).sum() for name, value in one.items()), start=torch.zeros(()))


def cosine(one: Params, other: Params) -> float:
    """Cosine of the angle between two gradients; 0 where one of them is 0."""
    norms = global_norm(one) * global_norm(other)
    return float(inner_product(one, other) / norms) if norms > 0 else 0.0


def blended(irpo: Params, direct: Params, share: float) -> Params:
    """The direction (1 − β) ĝ_IRPO + β ĝ_true of the unit vectors, as long as that mean of the two lengths.

    Their lengths say nothing about each other (one went through N clipped updates), and a trust region looks at the direction
    alone. Where one of them is 0 it is the other.
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
    """β of :func:`blended`.

    * ``"abrupt"``: 0, then 1 from ``start`` of training on.
    * ``"exponential"``: 1 − ½^(progress / start).
    * ``"agreement"``: the cosine between the true gradients of two halves of the base policy's batch, at least 0. Its
      numerator estimates ‖∇J‖² without bias and its denominator adds the noise, so it is the share of signal in the true
      gradient: 0 while nothing is paid, towards 1 as reward becomes common.
    * ``"switch"``: 0 in an iteration that explores (:class:`Switch` says which).

    Args:
        progress: 0 to 1 of training. halves: the direct gradient of each half of the batch.
    """
    if blend == "abrupt":
        return float(progress >= start)
    if blend == "exponential":
        return 1 - 0.5 ** (progress / start)
    if blend == "agreement":
        return max(0.0, cosine(*halves))
    return 0.0


def direct_run(last_run: int, base_return: float, best_return: float) -> int:
    """``"switch"``: how many iterations on the true gradient follow one that explored.

    None unless the base policy was paid and did as well as the best exploratory one; then 1, 2, 4, … up to 32, twice as many
    each time exploration confirms it. Such an iteration takes one batch, not 1 + K·N.
    """
    if base_return <= 0 or base_return < best_return:
        return 0
    return min(max(1, 2 * last_run), LONGEST_DIRECT_RUN)
