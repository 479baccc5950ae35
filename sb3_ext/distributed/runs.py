"""Runs of a benchmark, each in a worker of its own."""

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
    """``function(*job)`` for each of ``jobs`` on a Ray cluster, as many at a time as it has cores; the results in their order.

    Args:
        function: one whose work is in files, or that can begin again: where a worker is lost it is called again.
        finished: is told the number of each job that is done. address: see :func:`sb3_ext.distributed.connect`.
    """
    connect(address)
    remote = import_ray().remote(num_cpus=1, max_retries=0)(function)
    return run_again_if_lost(lambda index: remote.remote(*jobs[index]), len(jobs), finished=finished)
