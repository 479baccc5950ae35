"""What a command knows of its own process: how it was started, and the signals that end it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def command_name(name: str) -> str:
    """Return how a command was started, for its messages: as a console script or as a module.

    Args:
        name: ``"train"``, ``"benchmark"`` or ``"plot"``.
    """
    script = f"irw-{name}"
    return script if Path(sys.argv[0]).stem == script else f"python -m sb3_ext.{name}"


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Within the block, SIGTERM raises ``KeyboardInterrupt``, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
