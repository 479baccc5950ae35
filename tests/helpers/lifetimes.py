"""Environments and functions that the tests of meta_reward share."""

from __future__ import annotations

from typing import Any

from envs.tasks import PointGoal
from sb3_ext.meta import LifetimeVecEnv, MetaReward

POINT = {"max_episode_steps": 10, "goal_radius": 0.3}
INNER = {"n_steps": 40, "n_batches": 3, "n_epochs": 2, "n_minibatches": 4, "net_arch": (8,)}
NETWORK = {"encoders": (8, 8), "lstm_size": 8, "mean_arch": (8,), "value_arch": (8,)}


def lifetimes(n: int = 4, **kwargs: Any) -> LifetimeVecEnv:
    return LifetimeVecEnv(PointGoal(), n, settings=INNER, env_kwargs=POINT, **{"seed": 0, **kwargs})


def meta_reward(env: Any = None, **kwargs: Any) -> MetaReward:
    given: dict[str, Any] = dict(chunk=50, n_epochs=2, seed=0, device="cpu", policy_kwargs={"network_kwargs": NETWORK})
    return MetaReward("MlpLstmPolicy", env or lifetimes(), **{**given, **kwargs})
