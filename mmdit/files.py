"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["check_folder", "check_writable", "replacing", "replacing_folder", "write_atomic"]


@contextmanager
def replacing(path: str | Path, *, force: bool = True) -> Iterator[Path]:
    """A temporary file beside `path` to write to; at the end it is synced and takes `path`'s place in one step.

    Whatever stops the write, the old file stays as it was and the temporary one goes.

    Raises:
        FileExistsError: the file is there and `force` is false.
        OSError: the folder is missing or read-only, a folder or a device is in the way, the disk is full.
    """
    target = Path(os.path.realpath(path))  # a link keeps pointing where it points
    _refuse_existing(target, force)
    temporary = target.parent / f".mmdit-{secrets.token_hex(6)}.tmp"
    try:
        yield temporary
        os.chmod(temporary, _mode(target))
        _sync(temporary)
        if force:
            os.replace(temporary, target)
        else:
            _rename_to_new(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        _name_as_known(error, temporary, path)
        raise
    with suppress(OSError):  # not every system lets a folder be opened
        _sync(target.parent)


@contextmanager
def replacing_folder(
    path: str | Path, *, force: bool = True, other: Callable[[Path], str | None] = lambda folder: None
) -> Iterator[Path]:
    """An empty folder beside `path` to write files to; at the end they are synced and it takes `path`'s place.

    Whatever stops the write, the old folder stays as it was and the temporary one goes. The old one is moved aside, the
    new one moved in, the old one removed: a machine that dies between the first two leaves both, as `.mmdit-*`.

    Args:
        force: replace a folder that is not empty.
        other: names something in the old folder that must not be lost; None where there is no such thing.

    Raises:
        OSError: as `check_folder`, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    check_folder(path, force=force, other=other)
    temporary = target.parent / f".mmdit-{secrets.token_hex(6)}.tmp"
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        check_folder(path, force=force, other=other)  # it may have come into being meanwhile
        if target.exists():
            os.chmod(temporary, _mode(target))
            os.rename(target, old)
        os.rename(temporary, target)
    except BaseException as error:
        if old.exists() and not target.exists():
            os.rename(old, target)
        shutil.rmtree(temporary, ignore_errors=True)
        _name_as_known(error, temporary, path)
        raise
    finally:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):
        _sync(target)
        _sync(target.parent)


def write_atomic(path: str | Path, content: bytes, *, force: bool = True) -> None:
    """Write a whole file or none; see `replacing`. A pipe or a device (`/dev/stdout`) is written directly."""
    target = Path(path)
    if target.exists() and not target.is_file() and not target.is_dir():
        target.write_bytes(content)
        return
    with replacing(path, force=force) as temporary:
        temporary.write_bytes(content)


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
    special = target.exists() and not target.is_file()
    if not os.access(target if special else target.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    if not special:  # a system's own folder takes no file, whoever asks
        tempfile.TemporaryFile(dir=target.parent).close()


def check_folder(path: str | Path, *, force: bool, other: Callable[[Path], str | None]) -> None:
    """Refuse early what `replacing_folder` would refuse.

    Raises:
        FileExistsError: the folder is there, is not empty, and `force` is false.
        OSError: a file is in the way, the folder holds something else, or the one above it is missing or read-only.
    """
    target = Path(os.path.realpath(path))
    if os.path.lexists(target):
        if not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Is no folder", str(path))
        if any(target.iterdir()):
            if not force:
                raise FileExistsError(errno.EEXIST, "File exists", str(path))
            if (name := other(target)) is not None:
                raise OSError(errno.ENOTEMPTY, f"holds {name!r}, which would be lost", str(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(Path(path).parent))
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))


def _name_as_known(error: BaseException, temporary: Path, path: str | Path) -> None:
    """Raise an error about a temporary file again, with the name that the user gave."""
    if isinstance(error, OSError) and (error.filename is None or str(error.filename).startswith(str(temporary))):
        raise type(error)(error.errno, error.strerror, str(path)) from error


def _refuse_existing(target: Path, force: bool) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(target))
    if target.exists() and not target.is_file():  # root could put a file in the place of /dev/null
        raise OSError(errno.EINVAL, "Not a regular file", str(target))
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


def _mode(target: Path) -> int:
    """The permissions of the file that is replaced, or those of any new file."""
    with suppress(OSError):
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync(path: Path) -> None:
    """Make a file's content, or a folder's renames, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
