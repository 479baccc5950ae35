"""Groups of transitions as padded tables of distinct rows with weights, so that repeated observations are evaluated once.

A batch of 8 000 transitions on a grid holds some 50 distinct observations. A loss that is a weighted sum over transitions
has the same gradient as the sum over distinct rows with the weights of equal rows added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from irwrappers.unique_rows import unique_rows

MAX_ROW_ENTRIES = 64  # larger rows (images) are rarely repeated and expensive to compare


@dataclass
class GroupedRows:
    """Distinct rows of G groups of M transitions.

    Attributes:
        rows: ``[G, R, ...]`` (or a pytree of such), padded by repeating rows.
        index: int ``[G, M]``, the row of each transition.
    """

    rows: Any
    index: Tensor

    @property
    def n_rows(self) -> int:
        """R, the number of rows of a group, padding included."""
        return tree_leaves(self.rows)[0].shape[1]

    def expand(self, groups: int) -> GroupedRows:
        """Return the same rows for each of ``groups`` groups (several policies that learn from one batch), without a copy."""
        if len(self.index) == groups:
            return self
        rows = tree_map(lambda x: x.expand(groups, *x.shape[1:]), self.rows)
        return GroupedRows(rows, self.index.expand(groups, -1))

    def first(self) -> GroupedRows:
        """Return the first group alone."""
        return GroupedRows(tree_map(lambda x: x[:1], self.rows), self.index[:1])

    def add_up(self, weights: Tensor) -> Tensor:
        """Return the sums ``[G, R]`` of ``weights`` ``[G, M]`` over the transitions of each row."""
        groups, n_rows = len(self.index), self.n_rows
        offset = torch.arange(groups, device=weights.device)[:, None] * n_rows
        total = weights.new_zeros(groups * n_rows)
        return total.index_add_(0, (self.index + offset).reshape(-1), weights.reshape(-1)).view(groups, n_rows)


def group_rows(values: Any, valid: Tensor) -> GroupedRows:
    """Return the distinct rows within each group.

    Args:
        values: ``[G, M, ...]``, a pytree of tensors.
        valid: bool ``[G, M]``; the others have the index of transition 0, which must be valid.
    """
    groups, m = valid.shape
    flat = [leaf.reshape(groups, m, -1) for leaf in tree_leaves(values)]
    if sum(leaf.shape[-1] for leaf in flat) > MAX_ROW_ENTRIES:
        return GroupedRows(values, torch.arange(m, device=valid.device).expand(groups, m))

    label = torch.arange(groups, device=valid.device).view(groups, 1, 1).expand(groups, m, 1)
    table = torch.cat([label.double(), *[leaf.double() for leaf in flat]], -1)  # float64 holds every leaf exactly
    table = torch.where(valid[..., None], table, table[:, :1])
    distinct, inverse = unique_rows(table.reshape(groups * m, -1))
    group = distinct[:, 0].long()
    order = torch.argsort(group, stable=True)
    start = torch.searchsorted(group[order].contiguous(), torch.arange(groups, device=group.device))
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=order.device) - start[group[order]]
    index = position[inverse].view(groups, m)

    member = torch.zeros((groups, int(position.max()) + 1), dtype=torch.long, device=valid.device)  # padding: transition 0
    member.scatter_(1, index, torch.arange(m, device=valid.device).expand(groups, m))
    rows = tree_map(lambda leaf: _take(leaf, _valid_member(member, valid)), values)
    return GroupedRows(rows, index)


def _valid_member(member: Tensor, valid: Tensor) -> Tensor:
    """Replace an invalid transition that represents a row by transition 0, whose row it is."""
    return torch.where(valid.gather(1, member), member, 0)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Return ``values`` ``[G, M, ...]`` at ``index`` ``[G, R]``."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]


def minibatches(
    grouped: GroupedRows, targets: Tensor, valid: Tensor, n_minibatches: int, generator: torch.Generator
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Yield one pass over the valid transitions of each group in disjoint random minibatches, for a squared loss.

    Σ_t (V(s_t) − y_t)² / m and Σ_r w_r (V(s_r) − ȳ_r)², with w_r the share of row r and ȳ_r the mean of its targets, have
    the same gradient; if rows repeat the second is yielded, otherwise the first.

    Args:
        grouped: rows of G groups of M transitions.
        targets: ``[H, G, M]``, one set for each of H heads.
        valid: bool ``[G, M]``, the transitions that count.
        n_minibatches: number of minibatches.
        generator: of the order of the transitions.

    Yields:
        rows ``[G, r, ...]``, weights ``[G, r]`` summing to 1 over each group, targets ``[H, G, r]``.
    """
    groups, m = valid.shape
    noise = torch.rand((groups, m), generator=generator, device=valid.device).masked_fill_(~valid, 2.0)
    order = noise.argsort(1)  # a random order of the valid transitions of each group, the others last
    size = valid.sum(1) // n_minibatches
    width = int(size.max())
    if grouped.n_rows > width:
        column = torch.arange(width, device=valid.device)
        for number in range(n_minibatches):
            chosen = order.gather(1, (number * size[:, None] + column).clamp(max=m - 1))
            weights = (column < size[:, None]).to(targets.dtype) / size[:, None]
            index = grouped.index.gather(1, chosen)
            rows = tree_map(partial(_take, index=index), grouped.rows)
            yield rows, weights, targets.gather(2, chosen.expand(len(targets), -1, -1))
        return
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(m, device=order.device).expand(groups, m))
    number_of = rank // size[:, None]
    for number in range(n_minibatches):
        inside = ((number_of == number) & valid).to(targets.dtype)
        count = grouped.add_up(inside)
        mean = torch.stack([grouped.add_up(inside * target) for target in targets]) / count.clamp(min=1)
        yield grouped.rows, count / size[:, None], mean
