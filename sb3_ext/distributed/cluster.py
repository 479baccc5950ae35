"""A connection to a Ray cluster, and jobs on it that survive the loss of a worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

ATTEMPTS = 4  # at a job whose workers are lost


def import_ray() -> Any:
    """Ray, which is optional.

    Raises:
        ImportError: naming the extra.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('Spreading work over a cluster needs Ray: pip install "irwrappers[ray]"') from error
    return ray


def connect(address: str = "local") -> None:
    """Use the cluster at ``address``: ``"HOST:6379"``, ``"auto"`` for the one that this machine belongs to, or ``"local"``,
    which starts one of this machine's cores. A program that is connected already stays so.

    Raises:
        ImportError: Ray is not installed. ConnectionError: there is no cluster at ``address``.
    """
    ray = import_ray()
    if not ray.is_initialized():
        # Ray's workers step back for everything else on a machine; here they are the work itself.
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(address=address, include_dashboard=False if address == "local" else None, logging_level="warning")


def run_again_if_lost(
    submit: Callable[[int], Any],
    n_jobs: int,
    lost: Callable[[int], None] | None = None,
    finished: Callable[[int], None] | None = None,
) -> list[Any]:
    """The results of jobs 0 … n_jobs − 1, in their order; a job whose worker is lost is submitted again.

    Args:
        submit: starts a job and gives Ray's reference to its result. lost: is told of a job whose worker is gone, before it is
            submitted again. finished: is told of each job that is done.

    Raises:
        RuntimeError: the workers of one job were lost several times. What a job itself raises.
    """
    ray = import_ray()
    gone = ray.exceptions
    losses = (gone.RayActorError, gone.WorkerCrashedError, gone.ObjectLostError, gone.NodeDiedError, gone.OutOfMemoryError)
    waiting = {submit(index): index for index in range(n_jobs)}
    results: list[Any] = [None] * n_jobs
    attempts = [1] * n_jobs
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        index = waiting.pop(done)
        try:
            results[index] = ray.get(done)
        except losses as error:
            if attempts[index] == ATTEMPTS:
                raise RuntimeError(f"The worker of job {index} was lost {ATTEMPTS} times, perhaps for memory.") from error
            attempts[index] += 1
            if lost is not None:
                lost(index)
            waiting[submit(index)] = index
            continue
        if finished is not None:
            finished(index)
    return results
