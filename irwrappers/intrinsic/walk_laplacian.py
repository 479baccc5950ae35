"""The graph Laplacian of random walks: its matrix where states are few, samples of pairs where they are many."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from irwrappers.intrinsic.random_walks import Walks
from irwrappers.unique_rows import unique_rows

CLOSE = 0.05  # eigenvalues with at most this relative difference are treated as equal


class PairBatch(NamedTuple):
    """States for one gradient step of ALLO.

    Attributes:
        rows: ``[R, d]``.
        smoothness: a function of features ``[R, n]`` of the rows.
        states: an estimate of the state distribution over the rows, ``[R]``.
        other_states: another one, independent of it.
    """

    rows: Tensor
    smoothness: Callable[[Tensor], Tensor]
    states: Tensor
    other_states: Tensor


class Eigenfunctions(NamedTuple):
    """Estimates of eigenfunctions on the states of a stage of walks.

    Attributes:
        rows: the states, ``[R, d]``.
        values: a function of rows ``[…, d]`` to ``[…, n]``.
        eigenvalues: ``[n]``, of the symmetrised one-step Laplacian.
    """

    rows: Tensor
    values: Callable[[Tensor], Tensor]
    eigenvalues: Tensor

    def agreement_with(self, other: Eigenfunctions, n: int) -> float:
        """Return the least absolute cosine of eigenfunctions 1 … ``n`` with the other's, over the states of this stage.

        Where eigenvalues are close, eigenfunctions are determined up to a rotation only: there it is the cosine with the
        span of the other's.
        """
        ours, theirs = self.values(self.rows), other.values(self.rows)
        n_known = min(ours.shape[1], theirs.shape[1])
        cosines = [0.0] if n_known < 2 else []
        for i in range(1, min(n + 1, n_known)):
            close = (self.eigenvalues - self.eigenvalues[i]).abs() <= CLOSE * self.eigenvalues[i].abs() + 1e-9
            basis = torch.linalg.qr(theirs[:, :n_known][:, close[:n_known]]).Q
            cosines.append(float((basis.mT @ ours[:, i]).norm() / ours[:, i].norm().clamp(min=1e-12)))
        return min(cosines)


def one_step_laplacian(n: int, index: Tensor, same_walk: Tensor) -> Tensor:
    """Return I − P ``[n, n]`` (float64), with P the frequencies of transitions between states, made symmetric.

    The transitions from a state are divided by their number, so that each state has the same weight. Making P symmetric
    before the discount is applied, and not after, needs some twenty times fewer steps: on FourRooms the least absolute cosine
    of six eigenvectors with the exact ones is 0.99 at 20 000 steps.

    Args:
        n: number of states.
        index: int ``[L, W]``, the state at each step of each walk.
        same_walk: int ``[L, W]``, which walk it belongs to.
    """
    together = same_walk[1:] == same_walk[:-1]
    keys = (index[:-1] * n + index[1:])[together]
    counts = torch.bincount(keys, minlength=n * n).view(n, n).double()
    p = counts / counts.sum(1, keepdim=True).clamp(min=1)
    p = (p + p.mT) / 2
    return torch.diag(p.sum(1)) - p  # the constant function has eigenvalue 0 also in states without an exit


def whole_batch(rows: Tensor, laplacian: Tensor, discount: float) -> PairBatch:
    """Return all states as a batch, each with the same weight.

    With A = I − P the chain that takes a geometric number of steps has I − P_γ = A ((1 − γ) I + γ A)⁻¹: A's eigenvectors.

    Args:
        rows: the states, ``[n, d]``.
        laplacian: A, ``[n, n]``.
        discount: γ.
    """
    n = len(rows)
    identity = torch.eye(n, dtype=laplacian.dtype, device=rows.device)
    discounted = torch.linalg.solve((1 - discount) * identity + discount * laplacian, laplacian)
    matrix = (discounted + discounted.mT).float() / n  # E (u(s) − u(s′))² = 2 / n uᵀ (I − P_γ) u
    states = torch.full((n,), 1 / n, device=rows.device)
    return PairBatch(rows, lambda u: (u * (matrix @ u)).sum(), states, states)


def matrix_eigenfunctions(rows: Tensor, laplacian: Tensor, n: int) -> Eigenfunctions:
    """Return the first ``n`` eigenvectors; the value at a state that is not in ``rows`` is 0."""
    eigenvalues, vectors = torch.linalg.eigh(laplacian)
    vectors = vectors[:, :n]

    def values(others: Tensor) -> Tensor:
        _, inverse = unique_rows(torch.cat([rows, others]))
        table = vectors.new_zeros(len(rows) + len(others), vectors.shape[1])
        table[inverse[: len(rows)]] = vectors
        return table[inverse[len(rows) :]]

    return Eigenfunctions(rows, values, eigenvalues[:n])


def random_pairs(walks: Walks, n: int, discount: float, generator: torch.Generator) -> PairBatch:
    """Return ``n`` pairs of states, a geometric number of steps apart, sampled from the walks.

    Args:
        walks: to sample from.
        n: number of pairs.
        discount: of the geometric distribution.
        generator: of the samples.
    """
    length, n_columns = walks.same_walk.shape
    device = walks.positions.device

    def sample(high: int, size: int) -> Tensor:
        return torch.randint(high, (size,), generator=generator, device=device)

    t, column = sample(length, 2 * n), sample(n_columns, 2 * n)
    gap = torch.ones(n, dtype=torch.int64, device=device)
    if discount > 0:
        gap.geometric_(1 - discount, generator=generator)
    start, later = t[:n], (t[:n] + gap).clamp(max=length - 1)
    # Past the end of its walk a pair is cut to its last step; if no step is left it is (s, s) and has no influence.
    later = torch.minimum(later, walks.last[start, column[:n]])
    positions = torch.cat([walks.positions[t, column], walks.positions[later, column[:n]]])
    states, other_states = torch.zeros(2, 3 * n, device=device)
    states[:n], other_states[n : 2 * n] = 1 / n, 1 / n
    return PairBatch(positions, lambda u: (u[:n] - u[2 * n :]).square().sum() / n, states, other_states)
