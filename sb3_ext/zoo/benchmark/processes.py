"""Calls of a function, each in a fresh process, some at a time; ``sb3_ext.distributed.run_on_cluster`` does it on Ray."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any


class ProcessDied(RuntimeError):
    """A process ended before its function returned.

    Args:
        exit_code: that of the process; −9 is often a lack of memory.
    """

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"The process ended with exit code {exit_code}; -9 is often a lack of memory.")


def run_in_processes(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    at_a_time: int = 1,
    finished: Callable[[int], None] | None = None,
    died: Callable[[int, ProcessDied], None] | None = None,
) -> list[Any]:
    """Call ``function(*job)`` for each job in a fresh process and return the results in the order of the jobs.

    Ctrl-C, or an error in one of the jobs, ends all processes.

    Args:
        function: importable from its module, as its arguments and results must be.
        jobs: arguments of each call.
        at_a_time: number of processes that run at the same time.
        finished: called with the index of each job that is done.
        died: called with the index of a job whose process ended before it returned; its result is None. Without it
            :class:`ProcessDied` is raised.

    Raises:
        ProcessDied: see ``died``.
        Exception: what a job raises.
    """
    results: list[Any] = [None] * len(jobs)
    processes = _Processes()
    with ThreadPoolExecutor(at_a_time) as pool:
        futures = {pool.submit(processes.call, function, job): index for index, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                index = futures[future]
                try:
                    results[index] = future.result()
                except ProcessDied as error:
                    if died is None:
                        raise
                    died(index, error)
                if finished is not None:
                    finished(index)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            raise
    return results


class _Processes:
    """The processes that run at the moment.

    A thread waits for each of them: a pool of the standard library loses all its processes when one of them is killed.
    """

    def __init__(self) -> None:
        self._running: set[Any] = set()
        self._ended = False
        self._lock = threading.Lock()

    def call(self, function: Callable[..., Any], job: tuple[Any, ...]) -> Any:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_send_result, args=(sender, function, job))
        with self._lock:
            if self._ended:
                raise ProcessDied(None)
            process.start()
            self._running.add(process)
        sender.close()
        try:
            # A process of the child's own may hold the pipe open after the child was killed, so do not rely on its end.
            while not receiver.poll(0.5) and process.is_alive():
                pass
            succeeded, result = receiver.recv() if receiver.poll() else _died(process)
        except EOFError:
            succeeded, result = _died(process)
        finally:
            process.join()
            receiver.close()
            with self._lock:
                self._running.remove(process)
        if not succeeded:
            raise result
        return result

    def end(self) -> None:
        """Start no more processes and end those that run."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.terminate()


def _died(process: Any) -> tuple[bool, ProcessDied]:
    process.join()
    return False, ProcessDied(process.exitcode)


def _send_result(sender: Any, function: Callable[..., Any], job: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches every process; the parent ends this one
    _end_with_parent()
    try:
        message: tuple[bool, Any] = True, function(*job)
    except Exception as error:
        error.add_note(traceback.format_exc())  # pickling drops the traceback, and keeps notes
        message = False, error
    sender.send(message)


def _end_with_parent() -> None:
    """End this process when its parent is killed.

    Left over, it would write into the folder of a run that is resumed later, or take time from a measurement.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
