"""One command at a time in a benchmark's folder."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from irwrappers.files import write_text

LOCK, HOLDER = ".lock", ".lock-holder.json"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for the block. A process that is killed releases it.

    Args:
        folder: created if there is none.

    Raises:
        ValueError: if another process has locked it, with that process.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder} is in use by another command{_holder(folder)}. Wait for its end, or choose another --out."
        ) from None
    try:
        about = {"process": os.getpid(), "machine": platform.node(), "since": f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"}
        write_text(folder / HOLDER, json.dumps(about) + "\n")
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()
        if [path.name for path in folder.iterdir()] in ([], [LOCK]):  # nothing was written
            (folder / LOCK).unlink(missing_ok=True)
            if is_new:
                folder.rmdir()


def _holder(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        about = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f", process {about['process']} on {about['machine']} since {about['since']}"
    return ""
