"""Distinct rows of a tensor, found by hashing."""

from __future__ import annotations

import torch
from torch import Tensor


def _words(x: Tensor) -> Tensor:
    """Return the bits of each entry as int64 ``[n, d]``, high bits folded into low ones."""
    if x.is_floating_point():
        x = x + 0.0  # −0.0 becomes 0.0: they are equal, so their bits must be
    if x.dtype == torch.float64:
        bits = x.contiguous().view(torch.int64)
        return bits ^ (bits >> 32)
    if x.dtype == torch.float32:
        bits = x.contiguous().view(torch.int32).to(torch.int64)
        return bits ^ (bits >> 16)
    return x.to(torch.int64) if not x.is_floating_point() else _words(x.float())


def unique_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows of ``x`` ``[n, d]`` and, for each row, which of them it is.

    Much faster than ``torch.unique(dim=0)``: rows are compared by a 64-bit hash, and the result is checked; on a
    collision ``torch.unique`` is used.

    Returns:
        rows ``[m, d]`` and inverse, int64 ``[n]``, with ``rows[inverse] == x``.
    """
    generator = torch.Generator().manual_seed(0x5EED)
    factors = (torch.randint(-(2**62), 2**62, (x.shape[1],), generator=generator) * 2 + 1).to(x.device)
    key = (_words(x) * factors).sum(1)
    key = key ^ (key >> 29)
    _, inverse = torch.unique(key, return_inverse=True)
    first = torch.zeros(int(inverse.max()) + 1 if len(x) else 0, dtype=torch.int64, device=x.device)
    first[inverse] = torch.arange(len(x), device=x.device)
    rows = x[first]
    if not torch.equal(rows[inverse], x):
        return torch.unique(x, dim=0, return_inverse=True)
    return rows, inverse
