"""Connection to a Ray cluster, and jobs on it that survive the loss of a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

CONNECTION_TIMEOUT = 10.0  # seconds
ATTEMPTS = 4  # submissions of a job whose workers are lost


def import_ray() -> Any:
    """Return the module ``ray``, which is optional.

    Raises:
        ImportError: if it is not installed; the message names the extra.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('Spreading work over a cluster needs Ray: pip install "irwrappers[ray]"') from error
    return ray


def connect(address: str = "local") -> None:
    """Connect this program to a cluster, unless it is connected already.

    Args:
        address: ``"HOST:6379"``, ``"auto"`` for the cluster that this machine belongs to, or ``"local"``, which starts a
            cluster of this machine's cores.

    Raises:
        ImportError: if Ray is not installed.
        ConnectionError: if there is no cluster at ``address``.
    """
    ray = import_ray()
    if not ray.is_initialized():
        check_reachable(address)
        # Ray gives its workers a low priority; here they do the main work of the machine.
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(address=address, include_dashboard=False if address == "local" else None, logging_level="warning")


def check_reachable(address: str) -> None:
    """Raise ConnectionError if nothing answers at ``HOST:PORT``, where Ray would try for minutes.

    Args:
        address: of a cluster; ``"auto"`` and ``"local"`` are not checked.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECTION_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"There is no Ray cluster at {address} ({error}). Start one with `ray start --head`, which prints its address, or "
            "give --ray local for the cores of this machine."
        ) from None


def run_again_if_lost(
    submit: Callable[[int], Any],
    n_jobs: int,
    lost: Callable[[int], None] | None = None,
    finished: Callable[[int], None] | None = None,
) -> list[Any]:
    """Return the results of jobs 0 … n_jobs − 1, in their order; a job whose worker is lost is submitted again.

    Args:
        submit: function that starts the job of a number and returns Ray's reference to its result.
        n_jobs: number of jobs.
        lost: function that is called with the number of a job whose worker is lost, before it is submitted again.
        finished: function that is called with the number of each finished job.

    Raises:
        RuntimeError: if the workers of a job were lost several times. An error of the job itself is raised as it is.
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
