"""Files that are there whole or not at all.

They are written as `.mmdit-*.tmp` in the same folder and renamed. A process that is killed leaves such a file; the next
write to the folder removes it. The temporary of a process that lives is locked, and stays.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmdit.weights.locks import locked

__all__ = [
    "check_folder",
    "check_writable",
    "remove_leftovers",
    "replacing",
    "replacing_folder",
    "sync",
    "write_atomic",
]

TEMPORARY, OLD = ".tmp", ".old"


@contextmanager
def replacing(path: str | Path, *, force: bool = True) -> Iterator[Path]:
    """A temporary file beside `path` to write to; at the end it is synced and takes `path`'s place in one step.

    Whatever stops the write, the old file stays as it was and the temporary one goes.

    Raises:
        FileExistsError: the file is there and `force` is false.
        OSError: the folder is missing or read-only, a folder or a device is in the way, the disk is full.
    """
    target = Path(os.path.realpath(path))  # a link keeps pointing where it points
    if _is_temporary(target):  # a writer within a writer: the outer one sees to it that it is whole
        yield target
        return
    _refuse_existing(target, force)
    with _temporary(target, path, lambda new: new.touch(exist_ok=False)) as temporary:
        yield temporary
        os.chmod(temporary, _mode(target))
        sync(temporary)
        if force:
            os.replace(temporary, target)
        else:
            _rename_to_new(temporary, target)
    with suppress(OSError):  # not every system lets a folder be opened
        sync(target.parent)


@contextmanager
def replacing_folder(
    path: str | Path, *, force: bool = True, other: Callable[[Path], str | None] = lambda folder: None
) -> Iterator[Path]:
    """An empty folder beside `path` to write files to; at the end they are synced and it takes `path`'s place.

    Whatever stops the write, the old folder stays as it was and the temporary one goes. Linux swaps the two in one
    step. Elsewhere the old one is moved aside and the new one moved in, and a machine that dies between the two leaves
    both, as `.mmdit-*`, which nothing removes.

    Args:
        force: replace a folder that is not empty.
        other: names something in the old folder that must not be lost; None where there is no such thing.

    Raises:
        OSError: as `check_folder`, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    if _is_temporary(target):
        yield target
        return
    check_folder(path, force=force, other=other)
    with _temporary(target, path, Path.mkdir) as temporary:
        yield temporary
        for each in (*temporary.iterdir(), temporary):
            sync(each)
        check_folder(path, force=force, other=other)  # it may have come into being meanwhile
        if target.exists():
            os.chmod(temporary, _mode(target))
            _put_in_place(temporary, target)
        else:
            os.rename(temporary, target)
        with suppress(OSError):
            sync(target)
            sync(target.parent)
        _remove(temporary.with_suffix(OLD))  # where the two could not be swapped; it has lasted until the new one does


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


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files and folders of processes that were killed; those of living ones stay."""
    for path in Path(folder).glob(f".mmdit-*{TEMPORARY}"):
        with suppress(OSError):
            if not path.with_suffix(OLD).exists():  # else the folder it was to replace is there under that name
                with locked(path) as ours:
                    if ours:
                        _remove(path)
    for path in Path(folder).glob(f".mmdit-*{OLD}"):
        if not path.with_suffix(TEMPORARY).exists():  # the new one is in its place
            _remove(path)


@contextmanager
def _temporary(target: Path, path: str | Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new temporary file or folder beside `target`, locked while it is in use, and gone afterwards.

    Errors that name it are raised with the name that the user gave, `path`.
    """
    remove_leftovers(target.parent)
    while True:
        temporary = target.parent / f".mmdit-{secrets.token_hex(6)}{TEMPORARY}"
        try:
            make(temporary)
            with locked(temporary) as ours:
                if ours is False:  # someone took it for a leftover before it was locked
                    continue
                yield temporary
                return
        except BaseException as error:
            _name_as_known(error, temporary, path)
            raise
        finally:
            _remove(temporary)


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".mmdit-") and path.suffix == TEMPORARY and path.exists()


def _remove(path: Path) -> None:
    """A file or a folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _put_in_place(temporary: Path, target: Path) -> None:
    """Let a folder take another's place; what it replaces is at `temporary` afterwards, or beside it as `OLD`."""
    if _swap(temporary, target):
        return
    old = temporary.with_suffix(OLD)
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        if not target.exists():
            os.rename(old, target)
        raise


def _swap(one: Path, other: Path) -> bool:
    """Exchange two names in one step (Linux's `renameat2`); False where that can't be done."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if swap is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


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


def sync(path: Path) -> None:
    """Make a file's content, or a folder's renames, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
