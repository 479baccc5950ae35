"""Objects in worker processes, whose methods are called from this process."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"  # as SB3's SubprocVecEnv


class WorkerProcesses:
    """Worker processes, each with an object ``factory(*arguments)``, which start with the first call.

    Arguments and results are pickled (tensors too: through shared memory they would need a large /dev/shm).

    Args:
        n: number of processes.
        factory: makes the object of a process.
        *arguments: of ``factory``.

    Raises:
        RuntimeError: for an error in a process, with its traceback; all processes are ended then.
    """

    def __init__(self, n: int, factory: Callable[..., Any], *arguments: Any) -> None:
        self.n, self._made_by = n, (factory, arguments)
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._asked: list[Connection] = []

    def ask(self, method: str, arguments: Sequence[tuple[Any, ...] | None]) -> None:
        """Call a method of the objects, without waiting for the results; an earlier call is finished first.

        Args:
            method: name of the method.
            arguments: of each object; None: its method is not called.
        """
        if self._asked:
            self.answers()
        try:
            if not self._processes:
                self._start()
            for pipe, given in zip(self._pipes, arguments, strict=True):
                if given is not None:
                    with contextlib.suppress(
                        ConnectionError
                    ):  # its process has ended, and receiving its answer raises the error
                        pipe.send_bytes(pickle.dumps((method, given)))
                    self._asked.append(pipe)
        except BaseException:  # Ctrl-C: it is not known then which processes were asked
            self.close(timeout=0)
            raise

    def answers(self) -> list[Any]:
        """Return the results of the last call, in the order of the processes that were asked."""
        results = []
        try:
            for pipe in self._asked:
                try:
                    error, answer = pickle.loads(pipe.recv_bytes())
                except (EOFError, ConnectionError):
                    error, answer = "It ended without an answer (killed, perhaps for memory).", None
                if error is not None:
                    raise RuntimeError(f"A process of environments failed:\n{error}")
                results.append(answer)
        except BaseException:  # Ctrl-C too: it is not known then which have answered
            self.close(timeout=0)
            raise
        self._asked = []
        return results

    def close(self, timeout: float = 5) -> None:
        """Close the objects and end the processes.

        Args:
            timeout: seconds after which a process that still works is terminated.
        """
        for pipe in self._pipes:
            pipe.close()  # its process then reads the end of the pipe
        for process in self._processes:
            process.join(timeout)
            if process.is_alive():
                process.terminate()
        self._pipes, self._processes, self._asked = [], [], []

    def _start(self) -> None:
        context: Any = multiprocessing.get_context(START_METHOD)
        for _ in range(self.n):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, *self._made_by), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)


def _work(pipe: Connection, factory: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches every process; the parent decides
    worker = None
    # The other end of the pipe closes at the end, perhaps with an unread answer of this process.
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            method, given = pickle.loads(pipe.recv_bytes())
            error, answer = None, None
            try:
                worker = factory(*arguments) if worker is None else worker
                answer = getattr(worker, method)(*given)
            except Exception:
                error = traceback.format_exc()
            pipe.send_bytes(pickle.dumps((error, answer)))
    if worker is not None:
        worker.close()
