"""Observation statistics of ``VecNormalize`` that stay frozen while an iteration's policies act."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.common.rollout import Rollout


@contextmanager
def frozen_statistics(normalize: VecNormalize | None) -> Iterator[bool]:
    """Within the block nothing updates the statistics; yields whether they were being trained."""
    was_training = normalize is not None and normalize.training
    if normalize is not None:
        normalize.training = False
    try:
        yield was_training
    finally:
        if normalize is not None:
            normalize.training = was_training


def update_statistics(normalize: VecNormalize, rollouts: Iterable[Rollout]) -> None:
    """Take in the original observations of the valid transitions."""
    if not normalize.norm_obs:
        return
    for rollout in rollouts:
        raw = rollout.raw_observations
        if isinstance(raw, dict):
            for key in normalize.norm_obs_keys or ():
                normalize.obs_rms[key].update(raw[key][rollout.valid].cpu().numpy())
        else:
            normalize.obs_rms.update(raw[rollout.valid].cpu().numpy())
