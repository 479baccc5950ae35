"""A running standard deviation for each reward channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RunningStd(nn.Module):
    """Running mean and variance of ``n`` channels, merged by Chan et al.'s parallel formula.

    Args:
        n: number of channels.

    >>> std = RunningStd(1)
    >>> std.update(torch.tensor([[1.0], [3.0]]))
    >>> std.std
    tensor([1.], dtype=torch.float64)
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        for name in ("mean", "var", "count"):
            self.register_buffer(name, torch.zeros(n, dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Update with ``x`` ``[…, n]``, only where ``mask`` (broadcast to ``x``) is True."""
        if not x.numel():
            return
        if mask is None:
            rows = x.reshape(-1, x.shape[-1])
            rows = rows if rows.is_floating_point() else rows.double()
            mean = rows.mean(0)
            var = rows.sub(mean).square_().mean(0).double()
            mean = mean.double()
            count = torch.full_like(self.count, x.numel() / x.shape[-1])
        else:
            seen = mask.expand_as(x).reshape(-1, x.shape[-1])
            # Masked entries may be anything, NaN too: zero times NaN is NaN.
            values = x.reshape(seen.shape).double().masked_fill(~seen, 0)
            weight = seen.double()
            count = weight.sum(0)
            safe = count.clamp(min=1)
            mean = (values * weight).sum(0) / safe
            var = ((values - mean).square() * weight).sum(0) / safe
        total = (self.count + count).clamp(min=1)
        delta = mean - self.mean
        self.var.copy_((self.var * self.count + var * count + delta.square() * self.count * count / total) / total)
        self.mean.add_(delta * count / total)
        self.count.add_(count)

    @property
    def std(self) -> Tensor:
        """Standard deviation ``[n]``; 1 before the first update."""
        return torch.where(self.count > 0, self.var.sqrt(), torch.ones_like(self.var))

    def only(self, channels: Sequence[int]) -> RunningStd:
        """Return a copy with some of the channels."""
        part = RunningStd(len(channels)).to(self.mean.device)
        part.load_state_dict({name: value[list(channels)] for name, value in self.state_dict().items()})
        return part

    def normalize(self, x: Tensor) -> Tensor:
        """Return ``x / (std + 1e-8)``, in the type of ``x``."""
        return x / (self.std + 1e-8).to(x.dtype)
