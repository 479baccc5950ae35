"""The base policy's PPO update once it has solved its task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stable_baselines3 import PPO


@contextmanager
def advantages_divided_by(model: PPO, spread: float | None) -> Iterator[None]:
    """Within the block, divide the advantages of the rollout by ``spread`` instead of normalising them in each minibatch.

    Where nearly every episode reaches the best return, advantages are mostly errors of the critic. PPO normalises them to unit
    deviation, so its steps stay as large as before, in random directions: policies that had solved a maze lost it again and
    again, and their arg-max actions failed in half of all evaluations.

    Args:
        model: the algorithm, whose ``rollout_buffer`` is full.
        spread: of returns; None: PPO's own update.
    """
    if spread is None or not model.normalize_advantage:
        yield
        return
    advantages = model.rollout_buffer.advantages
    model.rollout_buffer.advantages = (advantages - advantages.mean()) / spread
    model.normalize_advantage = False
    try:
        yield
    finally:
        model.normalize_advantage = True
