"""The disk at work while tensors are made, or read back."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO

__all__ = ["Syncing"]

SYNCED = 64 << 20  # bytes that are given to the disk at a time


class Syncing:
    """Gives the disk what was written, in a thread, until the block ends.

    Raises:
        OSError: at the next call or the block's end, where something can't reach the disk: the system tells it once.
    """

    def __init__(self) -> None:
        self._beside = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._unsynced = 0

    def written(self, file: FileIO, count: int) -> None:
        """So many bytes more are in the file: enough of them are synced, when those before are."""
        self._unsynced += count
        if self._unsynced >= SYNCED and (self._pending is None or self._pending.done()):
            self.sync(file)

    def sync(self, file: FileIO) -> None:
        """Sync all that is in the file by now, which may be closed meanwhile."""
        if self._pending is not None:
            self._pending.result()
        self._pending, self._unsynced = self._beside.submit(_synced, os.dup(file.fileno())), 0

    def __enter__(self) -> Syncing:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self._beside.shutdown()
        if kind is None and self._pending is not None:
            self._pending.result()


def _synced(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
