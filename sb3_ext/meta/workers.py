"""Objects in processes of their own, whose methods are called from here."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

START_METHOD = "forkserver"  # as SB3's SubprocVecEnv


class Workers:
    """``factory(*arguments)`` in each of ``n`` processes, which begin with the first call.

    What is sent and what comes back is pickled (tensors too: through shared memory they would need a large /dev/shm).

    Raises:
        RuntimeError: what went wrong in a process, with its traceback; all of them are ended then.
    """

    def __init__(self, n: int, factory: Callable[..., Any], *arguments: Any) -> None:
        self.n, self._made_by = n, (factory, arguments)
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._asked: list[Connection] = []

    def ask(self, method: str, arguments: Sequence[tuple[Any, ...] | None]) -> None:
        """Call a method of each object, with arguments of its own; ``None``: not of this one."""
        if not self._processes:
            self._start()
        self._asked = []
        for pipe, given in zip(self._pipes, arguments, strict=True):
            if given is not None:
                pipe.send_bytes(pickle.dumps((method, given)))
                self._asked.append(pipe)

    def answers(self) -> list[Any]:
        """What those that were asked returned, in order."""
        results = []
        for pipe in self._asked:
            try:
                error, answer = pickle.loads(pipe.recv_bytes())
            except (EOFError, ConnectionResetError):
                error, answer = "It ended without a word (killed, perhaps for memory).", None
            if error is not None:
                self.close()
                raise RuntimeError(f"A process of environments failed:\n{error}")
            results.append(answer)
        return results

    def close(self) -> None:
        """Close the objects and end the processes."""
        for pipe in self._pipes:
            pipe.close()  # its process then reads the end of the pipe
        for process in self._processes:
            process.join(timeout=5)
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
    worker = None
    # The other end closes when all is over, perhaps with an answer of ours unread.
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
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
