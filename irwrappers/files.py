"""Files that are either whole or not there: written under a temporary name, then moved into place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp"


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name in the folder of ``path``; what the block writes there takes the place of ``path`` at its end.

    A block that is killed or fails, for instance because the disk is full, leaves ``path`` as it was. Temporary files that
    killed processes left for the same ``path`` are deleted.

    Args:
        path: the file to write.

    Yields:
        the name under which to write it.
    """
    path = Path(path)
    for left in path.parent.glob(f".{path.name}.*{TEMPORARY}"):
        if not _runs(left.name[len(path.name) + 2 : -len(TEMPORARY)]):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Args:
        path: the file.
        text: its contents.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _runs(process: str) -> bool:
    """Return whether a process with this number runs on this machine."""
    if not process.isdecimal() or os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
