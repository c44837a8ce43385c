"""Reading a file that someone named, which may be anything: a FIFO, a device, a folder, endless."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def read_regular(path: str | Path, limit: int) -> bytes:
    """The first bytes of a regular file, at most `limit`.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        return file.read(limit)


@contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file to read. What has no end or makes wait (a FIFO, a device) is refused.

    Raises:
        OSError: it can't be opened or is no regular file; its `strerror` may be None, and its text says what it is.
    """
    # without O_NONBLOCK, opening a FIFO that nobody writes to never returns
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError("it is a folder")
        if not stat.S_ISREG(mode):
            raise OSError("it is not a regular file; pipe it to standard input and name it -")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)
