"""The base policy's PPO update once it has solved its task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from stable_baselines3 import PPO

SOLVED = 0.05  # of the spread of returns: a policy that can gain less has solved its task,
N_DEVIATIONS = 1.5  # unless that is more than so many deviations of its advantages
LARGEST_REDUCTION = 50.0  # of advantages, compared with normalised ones


@contextmanager
def steady_advantages(model: PPO, gain: float, spread: float) -> Iterator[None]:
    """Within the block, do not normalise the advantages of the rollout if hardly anything is left to gain.

    Where nearly every episode reaches the best return, advantages are mostly errors of the critic. PPO normalises them to
    unit deviation, so its steps stay as large as before, in random directions: policies that had solved a maze lost it again,
    and two fifths of the later evaluations of their arg-max actions failed (``examples/results/irpo-ladder``). If ``gain`` is
    below 5 % of ``spread`` and below 1.5 deviations of the advantages, they are divided by ``spread``, or by 50 deviations
    where that is less.

    Args:
        model: the algorithm, whose ``rollout_buffer`` is full.
        gain: by how much the mean return of its policy is below the best return seen, in the environment's own rewards.
        spread: of the returns seen, likewise.
    """
    normalize = model.get_vec_normalize_env()
    if normalize is not None and normalize.norm_reward:  # advantages are those of rewards divided by this
        unit = float(np.sqrt(normalize.ret_rms.var + normalize.epsilon))
        gain, spread = gain / unit, spread / unit
    advantages = model.rollout_buffer.advantages
    deviation = float(advantages.std())
    solved = 0 <= gain < min(SOLVED * spread, N_DEVIATIONS * deviation)  # negative: better than all returns before
    if not (model.normalize_advantage and solved):
        yield
        return
    model.rollout_buffer.advantages = (advantages - advantages.mean()) / min(spread, LARGEST_REDUCTION * deviation)
    model.normalize_advantage = False
    try:
        yield
    finally:
        model.normalize_advantage = True
