"""Observation statistics of ``VecNormalize``, updated between iterations."""

from __future__ import annotations

from collections.abc import Iterable

from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.common.episode_rollout import EpisodeRollout


def update_statistics(normalize: VecNormalize | None, rollouts: Iterable[EpisodeRollout]) -> None:
    """Update the observation statistics from the valid transitions of ``rollouts``, if ``normalize`` is training."""
    if normalize is None or not normalize.training or not normalize.norm_obs:
        return
    for rollout in rollouts:
        raw = rollout.raw_observations
        if isinstance(raw, dict):
            for key in normalize.norm_obs_keys or ():
                normalize.obs_rms[key].update(raw[key][rollout.valid].cpu().numpy())
        else:
            normalize.obs_rms.update(raw[rollout.valid].cpu().numpy())
