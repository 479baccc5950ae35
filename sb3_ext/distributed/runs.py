"""Runs of a benchmark, each in its own Ray worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sb3_ext.distributed.cluster import connect, import_ray, run_again_if_lost


def run_on_cluster(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    address: str = "local",
    finished: Callable[[int], None] | None = None,
) -> list[Any]:
    """Return ``function(*job)`` for each job, in their order, run on a Ray cluster, as many at a time as it has cores.

    Args:
        function: one that can be called again after it was interrupted, since a job whose worker is lost is repeated.
        jobs: arguments of each call.
        address: see :func:`sb3_ext.distributed.connect`.
        finished: function that is called with the number of each finished job.
    """
    connect(address)
    remote = import_ray().remote(num_cpus=1, max_retries=0)(function)
    return run_again_if_lost(lambda index: remote.remote(*jobs[index]), len(jobs), finished=finished)
