"""Generalized advantage estimation as a linear-time scan, differentiable (any number of times) in its rewards and values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import register_pytree_node


class _ReverseScan(torch.autograd.Function):
    """y_t = x_t + decay_t · y_{t+1}; its derivative in x is the same recurrence run forward in time."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, decay: Tensor) -> Tensor:
        return _reverse_scan(x, decay)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (decay,) = ctx.saved_tensors
        # x_t reaches y_s for s ≤ t through decay_s … decay_{t−1}: flip time and shift the decays by one step.
        shifted = torch.cat([torch.zeros_like(decay[:1]), decay[:-1]])
        return _ReverseScan.apply(gradient.flip(0), shifted.flip(0)).flip(0), None


def _reverse_scan(x: Tensor, decay: Tensor) -> Tensor:
    """Solve the recurrence for pairs of steps, which is half as long, then for the steps between: T work in log T calls."""
    n_pairs = len(x) // 2
    if n_pairs == 0:
        return x.clone()
    first, second, rest = slice(0, 2 * n_pairs, 2), slice(1, 2 * n_pairs, 2), slice(2 * n_pairs, None)
    pairs = torch.addcmul(x[first], decay[first], x[second])
    sums = _reverse_scan(torch.cat([pairs, x[rest]]), torch.cat([decay[first] * decay[second], decay[rest]]))
    y = torch.empty_like(x)
    y[::2] = sums
    following = sums[1:] if len(sums) > n_pairs else torch.cat([sums[1:], torch.zeros_like(sums[:1])])
    y[1::2] = torch.addcmul(x[second], decay[second], following)
    return y


def discounted_sum(x: Tensor, decay: Tensor) -> Tensor:
    """Return y_t = x_t + decay_t · y_{t+1} with y_T = 0. Linear in T in time and memory.

    Args:
        x: ``[T, ...]``, differentiable.
        decay: ``[T, ...]``, the same shape; not differentiated (0 where an episode ends).
    """
    if x.shape != decay.shape:
        raise ValueError(f"x and decay must have the same shape, got {tuple(x.shape)} and {tuple(decay.shape)}.")
    return _ReverseScan.apply(x, decay)


class DiscountedSum:
    """:func:`discounted_sum` for one ``decay`` and many x, with a few calls for each x after a preparation.

    Within blocks of L steps the sum is a product with a triangular matrix. The first value of the next block enters by the
    products of decays, and these first values obey the same recurrence, one L-th as long. Memory is L · T.

    Args:
        decay: ``[T, ...]``, not differentiated.
        block: L, steps of a block.
    """

    def __init__(self, decay: Tensor, block: int = 64) -> None:
        self.shape = decay.shape
        n_steps = len(decay)
        block = min(block, n_steps)
        n_blocks = -(-n_steps // block)
        # [columns, N, L]; the last block is padded with steps of decay 0.
        self._padding = n_blocks * block - n_steps
        decay = functional.pad(decay.detach().reshape(n_steps, -1).t(), (0, self._padding)).view(-1, n_blocks, block)
        matrix = torch.zeros(*decay.shape, block, dtype=decay.dtype, device=decay.device)
        for i in reversed(range(block)):  # entry j, i is the product of decays i … j − 1
            if i + 1 < block:
                matrix[..., i] = matrix[..., i + 1] * decay[..., i, None]
            matrix[..., i, i] = 1
        self._to_next = matrix[..., -1, :] * decay[..., -1:]
        self._matrix = matrix.flatten(0, 1)
        self._beginnings = DiscountedSum(self._to_next[..., 0].t(), block) if n_blocks > 1 else None

    def __call__(self, x: Tensor) -> Tensor:
        """Return y ``[T, ...]`` for x ``[T, ...]``, differentiable in x any number of times."""
        if x.shape != self.shape:
            raise ValueError(f"x must have the shape of decay, {tuple(self.shape)}, got {tuple(x.shape)}.")
        return _DiscountedSum.apply(x, self, False)

    def copy_by_copy(self, x: Tensor) -> Tensor:
        """Return y for steps ``[T, B]`` in SB3's order, both x and y ``[B · T]``, environment by environment."""
        n_steps, n_envs = self.shape
        return self(x.view(n_envs, n_steps).t()).t().reshape(-1)

    def apply(self, x: Tensor, transposed: bool) -> Tensor:
        """Return the product of the sum's matrix, or of its transpose, with x, outside any graph."""
        y = x.reshape(len(x), -1).t()
        if self._padding:
            y = functional.pad(y, (0, self._padding))
        y = y.reshape(self._to_next.shape)
        y = self._transposed(y) if transposed else self._forward(y)
        return y.reshape(len(y), -1)[:, : len(x)].t().reshape(self.shape)

    def _forward(self, x: Tensor) -> Tensor:
        y = torch.bmm(x.reshape(-1, 1, x.shape[-1]), self._matrix).view(x.shape)
        if self._beginnings is not None:
            following = self._beginnings.apply(y[..., 0].t(), False).t()[:, 1:]
            y[:, :-1].addcmul_(self._to_next[:, :-1], following[..., None])
        return y

    def _transposed(self, y: Tensor) -> Tensor:
        if self._beginnings is not None:
            following = functional.pad((self._to_next * y).sum(-1)[:, :-1], (1, 0))
            y = torch.cat([y[..., :1] + self._beginnings.apply(following.t(), True).t()[..., None], y[..., 1:]], -1)
        return torch.bmm(y.reshape(-1, 1, y.shape[-1]), self._matrix.transpose(1, 2)).view(y.shape)


def _parts(operator: DiscountedSum) -> tuple[list[Any], Any]:
    return [operator._matrix, operator._to_next, operator._beginnings], (operator.shape, operator._padding)


def _from_parts(parts: Iterable[Any], shape_and_padding: Any) -> DiscountedSum:
    operator = object.__new__(DiscountedSum)
    operator._matrix, operator._to_next, operator._beginnings = parts
    operator.shape, operator._padding = shape_and_padding
    return operator


register_pytree_node(DiscountedSum, _parts, _from_parts)  # it may be an argument of a compiled function


class _DiscountedSum(torch.autograd.Function):
    """The sum as an autograd function: it is linear, so its derivative is its transpose, whose derivative is the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: DiscountedSum, transposed: bool) -> Tensor:
        ctx.operator, ctx.transposed = operator, transposed
        return operator.apply(x, transposed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _DiscountedSum.apply(gradient, ctx.operator, not ctx.transposed), None, None


def generalized_advantage_estimation(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, done: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Return the advantages of Schulman et al. (2016), arXiv 1506.02438.

        δ_t = r_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t)
        Â_t = δ_t + γ λ (1 − done_t) Â_{t+1}

    Linear in ``rewards`` and the values; gradients flow into all three.

    Args:
        rewards: ``[T, ...]``.
        values: ``[T, ...]``, of the states in which the steps were taken.
        next_values: ``[T, ...]``, of the states after the steps, before any reset: a truncated episode is bootstrapped where
            ``terminated`` is False.
        terminated: bool ``[T, ...]``, where V(s_{t+1}) counts as 0.
        done: bool ``[T, ...]``, where an episode ended, terminated or truncated.
        gamma: discount, in [0, 1].
        gae_lambda: λ, in [0, 1].

    Returns:
        ``[T, ...]`` advantages; the λ-returns are ``advantages + values``.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    return discounted_sum(deltas, (gamma * gae_lambda) * (~done).to(deltas.dtype))
