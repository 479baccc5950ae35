"""Rewards of chosen transitions."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.transitions import Transitions

CHUNK = 1024  # transitions in one call of compute


def reward_values(
    reward: IntrinsicReward, observations: Any, next_observations: Any = None, actions: Any = None
) -> np.ndarray:
    """Return the reward of each of N transitions as the first step of an episode of its own, float32 ``[N, n_rewards]``.

    The reward model is not changed; its counts and networks are used, its episodic memories are cleared in a copy.

    Args:
        reward: the reward model, fitted if it needs that.
        observations: ``[N, …]`` (or a dict of such), as the environment gives them.
        next_observations: like ``observations``; ``None``: the same as ``observations``.
        actions: ``[N, …]``; ``None``: the first action, or a zero one.
    """
    model = deepcopy(reward)
    model.forget()
    device = next((tensor.device for tensor in chain(reward.parameters(), reward.buffers())), torch.device("cpu"))
    to_tensor = lambda x: torch.as_tensor(np.asarray(x), device=device)  # noqa: E731
    before = tree_map(to_tensor, observations)
    after = before if next_observations is None else tree_map(to_tensor, next_observations)
    n = len(tree_leaves(before)[0])
    acts = _idle_actions(reward.action_space, n, device) if actions is None else to_tensor(actions)
    values = []
    for start in range(0, n, CHUNK):
        part = lambda x, start=start: x[None, start : start + CHUNK]  # noqa: E731  T = 1: no episodic memory between states
        never = torch.zeros((1, min(CHUNK, n - start)), dtype=torch.bool, device=device)
        batch = Transitions(tree_map(part, before), part(acts), tree_map(part, after), never, never.clone())
        values.append(model.compute(batch)[0])
    return torch.cat(values).cpu().numpy()


def _idle_actions(space: spaces.Space, n: int, device: torch.device) -> Tensor:
    """Return ``n`` times the first action of a discrete space, or the zero action, clipped to the bounds of a ``Box``."""
    if isinstance(space, spaces.Box):
        action: Any = np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    else:
        start = getattr(space, "start", 0)
        action = np.broadcast_to(np.asarray(start, dtype=np.int64), space.shape or ())
    return torch.as_tensor(np.repeat(np.asarray(action)[None], n, axis=0), device=device)
