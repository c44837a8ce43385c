"""May this be written? Asked of every option that names a file or folder to write, before the work is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmdit_cli.errors import UserError
from mmdit_cli.output.console import is_main, message

PICTURES = (".png", ".svg", ".pdf")


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """The system's errors in what runs here, as a UserError that names the option and its path."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror or error}") from None


def check_target(
    path: Path,
    option: str,
    *,
    suffixes: Sequence[str] = (),
    force: bool | None = None,
    example: str = "",
    folder: bool = False,
    other: Callable[[Path], str | None] = lambda folder: None,
) -> None:
    """Refuse what could not be written at `path` whole, or would replace what it must not.

    Args:
        suffixes: those that the name may have; none: any.
        force: whether a file, or a folder that is not empty, may be replaced; None: it may, and that is said.
        example: the name of a file, for who names a folder.
        folder: a folder is to be written.
        other: names something in an old folder that must not be lost; None where there is no such thing.

    Raises:
        UserError: it names the option, the path and what is in the way.
    """
    from mmdit.weights.atomic import check_folder, check_writable

    def refuse(reason: object) -> UserError:
        return UserError(f"{option} {path}: {reason}")

    try:
        is_there = bool(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        is_there = False
    except (OSError, ValueError) as error:  # such as a name that is too long
        raise refuse(getattr(error, "strerror", None) or error) from None
    if not folder and suffixes and path.suffix.lower() not in suffixes and not path.is_dir():
        raise refuse(f"expected a name that ends in {', '.join(suffixes)}")
    if not folder and os.path.exists(path) and not (path.is_file() or path.is_dir()):  # a FIFO waits for a reader
        raise refuse("is not a regular file")
    parent = (Path(os.path.realpath(path)) if path.is_symlink() else path).parent
    try:
        if folder:
            check_folder(path, force=force is not False, other=other)
        else:
            check_writable(path)
    except IsADirectoryError:
        raise refuse("is a folder; name a file in it" + (f", such as {path / example}" if example else "")) from None
    except NotADirectoryError:
        raise refuse("is no folder; shards go into one of their own") from None
    except FileExistsError:
        raise refuse("exists; --force replaces it") from None
    except OSError as error:
        if not os.path.isdir(parent):
            raise refuse(f"there is no folder {parent}; make it first") from None
        if not os.access(parent, os.W_OK):
            raise refuse(f"the folder {parent} is not writable") from None
        reason = error.strerror or error
        raise refuse(reason if folder else f"the folder {parent} takes no file: {reason}") from None
    if is_there and not folder and force is False:
        raise refuse("exists; --force replaces it")
    if is_there and not folder and force is None and is_main():
        message(f"{option} {path}: exists, and will be replaced")


def check_apart(reads: Mapping[str, str | Path | Sequence[str] | None], **writes: Path | None) -> None:
    """Refuse to write what another option reads or writes.

    Args:
        reads: what is read, by the name of its option; `-`, None and the name of a shipped config are no files.
        writes: what is written, likewise.

    Raises:
        UserError: two options name one file, by whatever path.
    """
    seen: dict[str, str] = {}
    for name, given in reads.items():
        paths = [given] if isinstance(given, (str, Path)) else given or ()
        files = (each for each in paths if str(each) != "-" and (name != "config" or os.path.isfile(each)))
        seen |= {os.path.realpath(each): name for each in files}
    for name, path in reversed(writes.items()):
        if path is None:
            continue
        option, real = name.replace("_", "-"), os.path.realpath(path)
        if real in seen:
            raise UserError(f"--{option} {path}: is the file that --{seen[real]} names; name another")
        seen[real] = option
