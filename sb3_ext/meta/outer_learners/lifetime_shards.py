"""Groups of lifetimes (shards), each with its own seeds and scale of the objective: in a loop, or in processes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils._pytree import tree_map

from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv
from sb3_ext.meta.lifetimes.worker_processes import WorkerProcesses
from sb3_ext.meta.outer_learners.lifetime_collection import Job, Result, collect
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork


class Shards(Protocol):
    """Interface of what runs jobs, each on its own group of lifetimes."""

    def run(self, network: MetaRewardNetwork, jobs: Sequence[Job]) -> list[Result]:
        """Return a result for each job.

        Args:
            network: gives the rewards.
            jobs: one for each group of lifetimes.
        """

    def close(self) -> None:
        """Close environments and processes."""


class LocalShards:
    """Groups of lifetimes that run one after the other in this process, as many as there are jobs.

    Args:
        arguments: of a group's environment, from ``LifetimeVecEnv.shard``.
        device: of the inner networks.
    """

    def __init__(self, arguments: dict[str, Any], device: torch.device | str = "cpu") -> None:
        self._env = LifetimeVecEnv(seed=0, device=device, **arguments)

    def run(self, network: MetaRewardNetwork, jobs: Sequence[Job]) -> list[Result]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in worker processes: with another number of threads rounding may differ
        try:
            results = [collect(network, self._env, job) for job in jobs]
        finally:
            torch.set_num_threads(threads)
        return [result for result in results if result is not None]

    def close(self) -> None:
        self._env.close()


class ProcessShards:
    """Groups of lifetimes in ``env.n_jobs`` processes of this machine, with the results of :class:`LocalShards`.

    A process holds environments, agents and reward network of its groups, so processes do not wait for each other within a
    lifetime; where only the environments are in processes, all wait for the slowest one at each step.

    Args:
        env: its arguments are those of the groups.
        n_shards: number of groups.
    """

    def __init__(self, env: LifetimeVecEnv, n_shards: int) -> None:
        n_jobs = min(env.n_jobs, n_shards)
        self._bounds = np.linspace(0, n_shards, n_jobs + 1).round().astype(int).tolist()
        self._workers = WorkerProcesses(n_jobs, LocalShards, env.shard(n_shards))

    def run(self, network: MetaRewardNetwork, jobs: Sequence[Job]) -> list[Result]:
        device = next(network.parameters()).device
        sent = deepcopy(network).cpu()
        check_jobs(jobs, self._bounds[-1])
        self._workers.ask("run", [(sent, list(jobs[start:end])) for start, end in pairwise(self._bounds)])
        return [on_device(result, device) for results in self._workers.answers() for result in results]

    def close(self) -> None:
        self._workers.close()


def make_shards(env: LifetimeVecEnv, n_shards: int) -> Shards:
    """Return groups in processes if the environment has several jobs and its agents are on the CPU, else in a loop.

    Args:
        env: its arguments are those of the groups.
        n_shards: number of groups.
    """
    if env.n_jobs > 1 and env.device.type == "cpu":
        return ProcessShards(env, n_shards)
    return LocalShards(env.shard(n_shards), env.device)


def check_jobs(jobs: Sequence[Job], n_shards: int) -> None:
    """Check that there is a job for each group.

    Args:
        jobs: the jobs.
        n_shards: number of groups.

    Raises:
        ValueError: if there is another number of jobs.
    """
    if len(jobs) != n_shards:
        raise ValueError(f"MetaReward runs n_shards={len(jobs)} groups of lifetimes, but its shards were made for {n_shards}.")


def on_device(result: Result, device: torch.device) -> Result:
    """Return ``result`` with its tensors on ``device``."""
    return result._replace(lifetimes=tree_map(lambda part: part.to(device), result.lifetimes))
