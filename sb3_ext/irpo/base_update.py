"""The base policy's PPO update once it has solved its task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from stable_baselines3 import PPO

SOLVED = 0.05  # of the spread of returns: a policy that can gain less has solved its task,
N_DEVIATIONS = 1.5  # unless that is more than so many deviations of its advantages
LARGEST_REDUCTION = 50.0  # of the learning rate


@contextmanager
def slow_if_solved(model: PPO, gain: float, spread: float) -> Iterator[None]:
    """Within the block, reduce the learning rate if hardly anything is left to gain.

    Where nearly every episode reaches the best return, advantages are mostly errors of the critic. PPO normalises them to
    unit deviation, so its steps stay as large as before, in random directions: policies that had solved a task lost it again,
    the arg-max actions first (``examples/results/irpo-ladder``). If ``gain`` is below 5 % of ``spread`` and below 1.5
    deviations of the advantages, the learning rate is multiplied by deviation / ``spread``, or by 1/50 where that is more.
    Smaller advantages would not do: Adam divides a gradient by its size.

    Args:
        model: the algorithm, whose ``rollout_buffer`` is full.
        gain: by how much the mean return of its policy is below the best return seen, in the environment's own rewards.
        spread: of the returns seen, likewise.
    """
    normalize = model.get_vec_normalize_env()
    if normalize is not None and normalize.norm_reward:  # advantages are those of rewards divided by this
        unit = float(np.sqrt(normalize.ret_rms.var + normalize.epsilon))
        gain, spread = gain / unit, spread / unit
    deviation = float(model.rollout_buffer.advantages.std())
    if not 0 <= gain < min(SOLVED * spread, N_DEVIATIONS * deviation):  # negative: better than all returns before
        yield
        return
    factor = min(1.0, max(1 / LARGEST_REDUCTION, deviation / spread))
    schedule = model.lr_schedule
    model.lr_schedule = lambda progress: factor * schedule(progress)
    try:
        yield
    finally:
        model.lr_schedule = schedule
