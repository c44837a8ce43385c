"""Reading a file that someone named, which may be anything: a FIFO, a device, a folder, endless."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class NotRegular(OSError):
    """What was named is there and has no end or makes wait; `kind` says what it is, such as "a folder"."""

    def __init__(self, kind: str, hint: str = "") -> None:
        super().__init__(f"it is {kind}{hint}")
        self.kind = kind


def read_regular(path: str | Path, limit: int) -> bytes:
    """The first bytes of a regular file, at most `limit`.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        return file.read(limit)


@contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file to read.

    Raises:
        NotRegular: it is a folder, a FIFO, a device; its `strerror` is None, and its text says what it is.
        OSError: it can't be opened.
    """
    # without O_NONBLOCK, opening a FIFO that nobody writes to never returns
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise NotRegular("a folder")
        if not stat.S_ISREG(mode):
            raise NotRegular("not a regular file", "; pipe it to standard input and name it -")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)
