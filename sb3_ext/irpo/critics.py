"""The 2K critics of IRPO, side by side: an extrinsic and an intrinsic one for each exploratory policy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from sb3_ext.common.optimizers import clip_each_
from sb3_ext.common.repeated_rows import GroupedRows, minibatches
from sb3_ext.irpo.policies import IRPOPolicy

ROWS_AT_A_TIME = {"cpu": 1024}  # rows that all critics evaluate in one call: activations then fit into the cache


def critic_values(policy: IRPOPolicy, rows: Any) -> Tensor:
    """Return the values ``[2, K, R]`` of preprocessed observations ``[K, R, ...]``."""
    values = vmap(vmap(policy.critic), in_dims=(0, None))
    critics = policy.critics.as_dict()
    return torch.cat([values(critics, _columns(rows, part)) for part in _slices(rows)], 2)


def update_critics(
    policy: IRPOPolicy,
    states: GroupedRows,
    targets: Tensor,
    valid: Tensor,
    n_minibatches: int,
    max_grad_norm: float | None,
    generator: torch.Generator,
) -> float:
    """Make one pass of all critics over their targets, and return their mean squared error before each step.

    The losses of the critics are summed, so one backward pass gives each its own gradient, which is clipped by its own norm.

    Args:
        policy: its ``critics`` are changed in place, by its optimiser.
        states: distinct preprocessed observations of K groups.
        targets: ``[2, K, M]``, extrinsic first.
        valid: bool ``[K, M]``, the transitions that count.
        n_minibatches: disjoint minibatches of the pass.
        max_grad_norm: clip of each critic's gradient, or None.
        generator: of the order of the transitions.
    """
    total = torch.zeros((), device=targets.device)
    for rows, weights, target in minibatches(states, targets, valid, n_minibatches, generator):
        policy.optimizer.zero_grad()
        for part in _slices(rows):
            errors = critic_values(policy, _columns(rows, part)) - target[:, :, part]
            loss = (weights[:, part] * errors**2).sum()
            loss.backward()
            total += loss.detach()
        clip_each_(list(policy.critics.parameters()), max_grad_norm, n_leading=2)
        policy.optimizer.step()
    return float(total) / (len(targets) * len(valid) * n_minibatches)


def _slices(rows: Any) -> list[slice]:
    first = tree_leaves(rows)[0]
    n_rows = first.shape[1]
    step = ROWS_AT_A_TIME.get(first.device.type, n_rows)
    return [slice(start, start + step) for start in range(0, n_rows, step)]


def _columns(rows: Any, part: slice) -> Any:
    """Return the rows ``part`` of ``[K, R, ...]`` for each policy."""
    return tree_map(lambda x: x[:, part], rows)
