"""Locks on files and folders that vanish with their process, whatever ends it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where open files can't be renamed either
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked"]


@contextmanager
def locked(path: str | Path) -> Iterator[bool | None]:
    """Hold the lock of a file or folder that is there, without waiting for it.

    Gives True where it is ours now, False where another process (or another part of this one) holds it or has removed
    the file meanwhile, None where the system or the file system has no such locks, or where it is neither a file nor a
    folder (opening a FIFO would wait for its other end). The lock is advisory (`flock`).

    Raises:
        OSError: the file can't be opened.
    """
    if fcntl is None or (os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))):
        yield None
        return
    how = os.O_RDWR if os.path.isfile(path) else os.O_RDONLY  # NFS locks what it may write
    try:
        descriptor = os.open(path, how | os.O_NONBLOCK)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _take(descriptor) and _is_still(descriptor, path)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_still(descriptor: int, path: str | Path) -> bool:
    """Whether the path still leads to what was opened: between opening and locking it may have been removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
