"""Groups of lifetimes, each in its own Ray actor."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from sb3_ext.distributed.cluster import connect, import_ray, run_again_if_lost
from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv
from sb3_ext.meta.outer_learners.lifetime_collection import Job, Result
from sb3_ext.meta.outer_learners.lifetime_shards import LocalShards, check_jobs, on_device
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork


class RayShards:
    """Groups of lifetimes of ``MetaReward(n_shards=…)`` on a Ray cluster, with the results of ``LocalShards``:

        model = MetaReward("MlpLstmPolicy", env, n_shards=8)
        model.shards = RayShards(env, n_shards=8, address="HEAD:6379")

    A job whose worker is lost begins again in a new one; its seed determines everything random in it.

    Args:
        env: environment of all lifetimes; only its arguments are used.
        n_shards: number of groups, each in an actor with one core.
        address: see :func:`sb3_ext.distributed.connect`.
    """

    def __init__(self, env: LifetimeVecEnv, n_shards: int, address: str = "local") -> None:
        self._arguments = env.shard(n_shards)
        connect(address)
        self._worker_class = import_ray().remote(num_cpus=1, max_restarts=0)(LocalShards)
        self.workers = [self._make_worker() for _ in range(n_shards)]

    def _make_worker(self) -> Any:
        return self._worker_class.remote(self._arguments)

    def run(self, network: MetaRewardNetwork, jobs: Sequence[Job]) -> list[Result]:
        """Return a result for each job, as ``LocalShards`` does."""
        check_jobs(jobs, len(self.workers))
        ray = import_ray()
        device = next(network.parameters()).device
        sent = ray.put(deepcopy(network).cpu())

        def replace(index: int) -> None:
            self.workers[index] = self._make_worker()

        results = run_again_if_lost(lambda index: self.workers[index].run.remote(sent, [jobs[index]]), len(jobs), replace)
        return [on_device(result, device) for (result,) in results]

    def close(self) -> None:
        """End the actors."""
        ray = import_ray()
        for worker in self.workers:
            ray.kill(worker)
        self.workers = []
