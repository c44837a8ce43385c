"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["check_writable", "write_atomic"]


def write_atomic(path: str | Path, content: bytes | Callable[[BinaryIO], object], *, force: bool = True) -> None:
    """Write a file under a temporary name beside it, sync it, then rename it: readers see the old file or the new one.

    `content` is the bytes, or a function that writes them to an open binary file. Whatever stops the write, the old
    file stays as it was and the temporary one goes. A pipe or a device (`/dev/stdout`) is written directly.

    Raises:
        FileExistsError: the file is there and `force` is false.
        OSError: the folder is missing or read-only, a folder is in the way, the disk is full.
    """
    target = Path(os.path.realpath(path))  # a link keeps pointing where it points
    if target.exists() and not target.is_file() and not target.is_dir():
        with target.open("wb") as file:
            _write(file, content)
        return
    _refuse_existing(target, force)
    temporary = target.parent / f".mmdit-{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "xb") as file:
            _write(file, content)
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, target)
        else:
            _rename_to_new(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            raise type(error)(error.errno, error.strerror, str(path)) from error  # the name the user knows
        raise
    _sync_folder(target.parent)


def check_writable(path: str | Path) -> None:
    """Refuse early what `write_atomic` would refuse after the work is done.

    Raises:
        OSError: the folder is missing or read-only, or a folder is in the way.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(Path(path).parent))
    if not os.access(target if target.exists() and not target.is_file() else target.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))


def _write(file: BinaryIO, content: bytes | Callable[[BinaryIO], object]) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content)


def _refuse_existing(target: Path, force: bool) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(target))
    if not force and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "File exists", str(target))


def _rename_to_new(temporary: Path, target: Path) -> None:
    """Rename without overwriting a file that came into being meanwhile."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "File exists", str(target)) from None
    except OSError:  # a file system without hard links
        os.rename(temporary, target)
    else:
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
