"""D_r: trajectory segments of the transitions collected so far, and the loss that keeps the reward on the extrinsic scale."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torch.utils._pytree import tree_map


class Segments(NamedTuple):
    """n segments of at most L steps.

    Attributes:
        observations: ``[n, L, …]``.
        actions: ``[n, L, n_actions]``.
        mask: bool ``[n, L]``, False after the end of a segment with fewer than L steps.
        rewards: r_ex ``[n, L]``, 0 after that end.
    """

    observations: Any
    actions: Tensor
    mask: Tensor
    rewards: Tensor


def segment_loss(learned: Tensor, segments: Segments) -> Tensor:
    """Return the mean over segments of (Σ r_ex − Σ r_φ)² (Zhang, Stadie & Ba), of learned rewards r_φ ``[n, L]``."""
    return (segments.rewards.sum(1) - (learned * segments.mask).sum(1)).square().mean()


def cut_into_segments(
    observations: Any, actions: Tensor, rewards: Tensor, done: Tensor, length: int, age: Tensor | int = 0
) -> Segments:
    """Return all steps of a rollout in segments, which begin with an episode and after every ``length`` steps of it.

    Segments end with the rollout, too.

    Args:
        observations: ``[B, T, …]``.
        actions: ``[B, T, …]``.
        rewards: ``[B, T]``.
        done: bool ``[B, T]``, whether an episode ended.
        length: largest number of steps in a segment.
        age: ``[B]``, steps before the rollout of the episodes that it begins within.
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


def episode_ages(done: np.ndarray, ages: np.ndarray) -> np.ndarray:
    """Return how many steps the running episodes have taken after a rollout.

    Args:
        done: bool ``[B, T]``, whether an episode ended.
        ages: ``[B]``, the same number before the rollout.
    """
    since = np.flip(done, 1).argmax(1)  # steps after the last end
    return np.where(done.any(1), since, ages + done.shape[1])


def normalized_segments(segments: Segments, normalize: VecNormalize | None) -> Segments:
    """Return unnormalised segments under the present statistics of ``normalize``, or as they are if it is None."""
    if normalize is None:
        return segments
    device = segments.mask.device
    observations = normalize.normalize_obs(tree_map(lambda values: values.cpu().numpy(), segments.observations))
    rewards = normalize.normalize_reward(segments.rewards.cpu().numpy())
    observations, rewards = tree_map(lambda values: torch.as_tensor(values, device=device), (observations, rewards))
    return segments._replace(observations=observations, rewards=rewards)


class SegmentBuffer:
    """A uniform sample of all segments collected so far, in bounded memory (reservoir sampling, Vitter 1985).

    Until ``capacity`` transitions are exceeded it holds all of them.

    Args:
        capacity: number of transitions, padding of short segments included.
        length: L, largest number of steps in a segment.
        device: device of sampled segments; they are stored on the CPU.
    """

    def __init__(self, capacity: int, length: int, device: torch.device) -> None:
        self.capacity, self.length, self.device = max(1, capacity // length), length, device
        self.n_seen = 0  # segments added so far, those no longer stored included
        self._stored: Segments | None = None

    def __len__(self) -> int:
        return min(self.n_seen, self.capacity)

    def add(self, segments: Segments) -> None:
        """Store segments, each with the probability that keeps the sample uniform."""
        if self._stored is None:
            # torch.zeros takes no memory before it is written to.
            self._stored = Segments(*tree_map(self._allocate, tuple(segments)))
        n = len(segments.mask)
        count = np.arange(self.n_seen, self.n_seen + n)
        # Segment number i (from 0) replaces a stored one with probability capacity / (i + 1).
        places = np.where(count < self.capacity, count, np.random.randint(0, count + 1))
        kept = {int(place): i for i, place in enumerate(places) if place < self.capacity}  # the latest for each place
        to, source = torch.tensor(list(kept), dtype=torch.long), torch.tensor(list(kept.values()), dtype=torch.long)
        self.n_seen += n
        if len(to):
            tree_map(lambda mine, new: mine.index_copy_(0, to, new.cpu()[source]), tuple(self._stored), tuple(segments))

    def _allocate(self, values: Tensor) -> Tensor:
        return torch.zeros((self.capacity, *values.shape[1:]), dtype=values.dtype)

    def sample(self, n: int) -> Segments:
        """Return ``n`` stored segments, sampled with replacement."""
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
                    f"{self.capacity} of {self.length} steps: give capacity and length as they were."
                )
            self._stored = Segments(*tree_map(self._allocate, state["stored"]))
            tree_map(lambda mine, saved: mine[: len(saved)].copy_(saved), tuple(self._stored), state["stored"])
        self.n_seen = state["n_seen"]
