"""Whether what lies on the disk is what was written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmdit.weights.header import CheckpointError, named
from mmdit.weights.reader import WeightFiles
from mmdit.weights.writer import Written, content_hash

__all__ = ["read_back"]

READERS = 2  # side by side


def read_back(path: Path, written: Written, on_tensor: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Read files that were just written, and compare every tensor with its hash.

    Args:
        path: of the file or folder, where it lies now.
        on_tensor: told how many tensors are compared, and of how many.

    Raises:
        CheckpointError: they differ, or can't be read.
    """
    with WeightFiles(path) as files, ThreadPoolExecutor(READERS) as pool:
        digests = {}
        try:
            for name, found in zip(files.stored, pool.map(files.digest, files.stored), strict=True):
                if found != written.digests.get(name):
                    raise CheckpointError(
                        f"{path}: {named(name)} came back changed, so nothing was written; please report it"
                    )
                digests[name] = found
                on_tensor(len(digests), len(files.stored))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after a Ctrl-C nobody waits for what was queued
        if content_hash(files.stored, digests) != written.sha256:  # a dtype, a shape, or a tensor that is missing
            raise CheckpointError(f"{path}: its header came back changed, so nothing was written; please report it")
