"""Groups of lifetimes, each with seeds and a scale of the objective of its own: one after the other, or in processes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils._pytree import tree_map

from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv
from sb3_ext.meta.lifetimes.worker_processes import Workers
from sb3_ext.meta.outer_learners.lifetime_collection import Job, Result, collect
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork


class Shards(Protocol):
    """Runs jobs, each on a group of lifetimes of its own, in order or side by side."""

    def run(self, network: MetaRewardNetwork, jobs: Sequence[Job]) -> list[Result]:
        """One result for each job."""

    def close(self) -> None:
        """Free environments and processes."""


class LocalShards:
    """One group after the other, here; as many as there are jobs.

    Args:
        arguments: of a group's environment, from :meth:`LifetimeVecEnv.shard`. device: of the inner networks.
    """

    def __init__(self, arguments: dict[str, Any], device: torch.device | str = "cpu") -> None:
        self._env = LifetimeVecEnv(seed=0, device=device, **arguments)

    def run(self, network: MetaRewardNetwork, jobs: Sequence[Job]) -> list[Result]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a group has a core of its own elsewhere, and another number may round otherwise
        try:
            results = [collect(network, self._env, job) for job in jobs]
        finally:
            torch.set_num_threads(threads)
        return [result for result in results if result is not None]

    def close(self) -> None:
        self._env.close()


class ProcessShards:
    """Side by side in ``env.n_jobs`` processes of this machine, with the results of :class:`LocalShards`.

    A process has everything of its groups, environments, agents and reward network, and nobody waits for anybody within a
    lifetime; where only the environments are in processes, all wait for the slowest at each step.
    """

    def __init__(self, env: LifetimeVecEnv, n_shards: int) -> None:
        n_jobs = min(env.n_jobs, n_shards)
        self._bounds = np.linspace(0, n_shards, n_jobs + 1).round().astype(int).tolist()
        self._workers = Workers(n_jobs, LocalShards, env.shard(n_shards))

    def run(self, network: MetaRewardNetwork, jobs: Sequence[Job]) -> list[Result]:
        device = next(network.parameters()).device
        sent = deepcopy(network).cpu()
        check_jobs(jobs, self._bounds[-1])
        self._workers.ask("run", [(sent, list(jobs[start:end])) for start, end in pairwise(self._bounds)])
        return [moved(result, device) for results in self._workers.answers() for result in results]

    def close(self) -> None:
        self._workers.close()


def make_shards(env: LifetimeVecEnv, n_shards: int) -> Shards:
    """In processes if the environment may have some, and its agents are on the CPU."""
    if env.n_jobs > 1 and env.device.type == "cpu":
        return ProcessShards(env, n_shards)
    return LocalShards(env.shard(n_shards), env.device)


def check_jobs(jobs: Sequence[Job], n_shards: int) -> None:
    """Raise ``ValueError`` unless there is one for each shard."""
    if len(jobs) != n_shards:
        raise ValueError(f"MetaReward runs n_shards={len(jobs)} groups of lifetimes, and its shards were made for {n_shards}.")


def moved(result: Result, device: torch.device) -> Result:
    """Its tensors on another device."""
    return result._replace(lifetimes=tree_map(lambda part: part.to(device), result.lifetimes))
