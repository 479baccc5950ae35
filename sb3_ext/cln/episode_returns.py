"""Returns of episodes that go on over several rollouts."""

from __future__ import annotations

import numpy as np


def episode_returns(rewards: np.ndarray, done: np.ndarray, running: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the returns of the episodes that ended in a rollout, ``[k, n_episodes]``, and those of the running ones so far.

    Args:
        rewards: ``[k, B, T]``, of k kinds of reward.
        done: bool ``[B, T]``, whether an episode ended.
        running: ``[k, B]``, returns before the rollout of the episodes that it begins within.
    """
    sums = rewards.cumsum(2) + running[..., None]
    finished, left = [], sums[..., -1].copy()
    for i, ends in enumerate(done):  # episodes of one environment have any number of steps
        at_ends = sums[:, i, ends]
        finished.append(np.diff(at_ends, axis=1, prepend=0))
        if at_ends.size:
            left[:, i] -= at_ends[:, -1]
    return np.concatenate(finished, axis=1), left
