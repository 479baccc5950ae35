"""D_r: trajectory segments of the transitions collected so far, and the loss that keeps the reward on the extrinsic scale."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map


class Segments(NamedTuple):
    """n segments of at most L steps. observations: ``[n, L, …]``, actions: ``[n, L, n_actions]``, mask: bool ``[n, L]``, False
    behind the end of a segment that is shorter; rewards: r_ex ``[n, L]``, 0 there."""

    observations: Any
    actions: Tensor
    mask: Tensor
    rewards: Tensor


def segment_loss(learned: Tensor, segments: Segments) -> Tensor:
    """Mean over segments of (Σ r_ex − Σ r_φ)² (Zhang, Stadie & Ba); learned rewards r_φ ``[n, L]``."""
    return (segments.rewards.sum(1) - (learned * segments.mask).sum(1)).square().mean()


def cut_into_segments(
    observations: Any, actions: Tensor, rewards: Tensor, done: Tensor, length: int, age: Tensor | int = 0
) -> Segments:
    """All steps of a rollout, in segments that begin with an episode and every ``length`` steps of it; the rollout cuts them.

    Args:
        observations, actions: ``[B, T, …]``. rewards: ``[B, T]``. done: bool ``[B, T]``, where an episode ended.
        age: ``[B]``, steps of the episodes that the rollout begins within.
    """
    time = torch.arange(rewards.shape[1], device=rewards.device)
    begins = torch.cat([torch.zeros_like(done[:, :1]), done[:, :-1]], 1)
    start = torch.where(begins, time, -1).cummax(1).values  # -1 in the episodes that the rollout begins within
    offset = torch.where(start < 0, time + torch.as_tensor(age, device=time.device).reshape(-1, 1), time - start) % length
    number = ((offset == 0) | (time == 0)).flatten().cumsum(0) - 1
    offset, n_segments = offset.flatten(), int(number[-1]) + 1

    def padded(values: Tensor) -> Tensor:
        result = values.new_zeros((n_segments, length, *values.shape[2:]))
        result[number, offset] = values.flatten(0, 1)
        return result

    mask = padded(torch.ones_like(done))
    return Segments(tree_map(padded, observations), padded(actions), mask, padded(rewards))


class SegmentBuffer:
    """A uniform sample of all segments collected so far, in bounded memory (reservoir sampling, Vitter 1985).

    Until ``capacity`` transitions are exceeded these are all of them.

    Args:
        capacity: in transitions, a multiple of which are padding where episodes end within a segment. length: L.
    """

    def __init__(self, capacity: int, length: int, device: torch.device) -> None:
        self.capacity, self.length, self.device = max(1, capacity // length), length, device
        self.n_seen = 0  # segments, the forgotten ones included
        self._stored: Segments | None = None

    def __len__(self) -> int:
        return min(self.n_seen, self.capacity)

    def add(self, segments: Segments) -> None:
        if self._stored is None:
            # torch.zeros takes no memory before it is written to.
            self._stored = Segments(*tree_map(self._allocate, tuple(segments)))
        n = len(segments.mask)
        count = np.arange(self.n_seen, self.n_seen + n)
        # Segment number i (from 0) replaces one that is kept with probability capacity / (i + 1).
        places = np.where(count < self.capacity, count, np.random.randint(0, count + 1))
        kept = {int(place): i for i, place in enumerate(places) if place < self.capacity}  # the latest of each place
        to, source = torch.tensor(list(kept), dtype=torch.long), torch.tensor(list(kept.values()), dtype=torch.long)
        self.n_seen += n
        if len(to):
            tree_map(lambda mine, new: mine.index_copy_(0, to, new.cpu()[source]), tuple(self._stored), tuple(segments))

    def _allocate(self, values: Tensor) -> Tensor:
        return torch.zeros((self.capacity, *values.shape[1:]), dtype=values.dtype)

    def sample(self, n: int) -> Segments:
        """``n`` segments with replacement."""
        assert self._stored is not None, "nothing has been collected"
        rows = torch.from_numpy(np.random.randint(0, len(self), size=n))
        return Segments(*tree_map(lambda values: values[rows].to(self.device), tuple(self._stored)))

    def state_dict(self) -> dict[str, Any]:
        stored = None if self._stored is None else tree_map(lambda values: values[: len(self)].clone(), tuple(self._stored))
        return {"n_seen": self.n_seen, "stored": stored}

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        self.n_seen, self._stored = 0, None
        if state["stored"] is not None:
            n_saved, length = state["stored"][2].shape
            if length != self.length or n_saved != min(state["n_seen"], self.capacity):
                raise ValueError(
                    f"The saved segments, {n_saved} of {length} steps out of {state['n_seen']}, are not those of a buffer of "
                    f"{self.capacity} of {self.length} steps: give segment_buffer_size and segment_length as they were."
                )
            self._stored = Segments(*tree_map(self._allocate, state["stored"]))
            tree_map(lambda mine, saved: mine[: len(saved)].copy_(saved), tuple(self._stored), state["stored"])
        self.n_seen = state["n_seen"]
