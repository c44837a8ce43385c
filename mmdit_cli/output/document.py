"""The JSON document of a command: a view of the same results that its tables show."""

from __future__ import annotations

import math
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdit_cli import __version__
from mmdit_cli.errors import UserError
from mmdit_cli.output.renderings import render, to_json

if TYPE_CHECKING:
    from mmdit_cli.request.request import Request


def make_document(request: Request, results: Sequence[Any], **extra: Any) -> dict[str, Any]:
    """What the contract says every document has, and the results as plain data."""
    import torch

    return {
        "command": request.command,
        "mmdit_version": __version__,
        "torch_version": str(torch.__version__),
        "device": request.device,
        "device_name": device_name(request.device),
        "threads": torch.get_num_threads(),
        "dtype": request.dtype,
        "seed": request.seed,
        **{key: _plain(value) for key, value in extra.items()},
        "results": [_plain(result) for result in results],
    }


def device_name(device: str) -> str:
    """The processor's or the card's own name."""
    import platform

    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else "not on this machine"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "cpu"


def emit(request: Request, document: dict[str, Any]) -> None:
    """Print the document where `--json` asks for it, and write it where `--report` does.

    Raises:
        UserError: the report can't be written.
    """
    if request.report is not None:
        from mmdit.weights.atomic import write_atomic

        try:
            write_atomic(request.report, render(document, request.report.suffix).encode())
        except OSError as error:
            raise UserError(f"--report {request.report}: {error.strerror or error}") from None
    if request.json:
        text = to_json(document)
        try:
            text.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:  # a locale such as C: the same document, spelled in ASCII
            text = to_json(document, ascii=True)
        sys.stdout.write(text)
        sys.stdout.flush()


def check_target(path: Path, option: str, suffix: str = "") -> None:
    """Raises UserError where a file at `path` could not be written, or its name ends otherwise than in `suffix`."""
    parent = path.parent
    if suffix and path.suffix.lower() != suffix:
        raise UserError(f"{option} {path}: expected a name that ends in {suffix}")
    try:
        mode = os.stat(path).st_mode if os.path.exists(path) else os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{option} {path}: is a folder; name a file in it")
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):  # writing to a FIFO waits for a reader
            raise UserError(f"{option} {path}: is not a regular file")
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.isdir(parent):
            raise UserError(f"{option} {path}: there is no folder {parent}; make it first") from None
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{option} {path}: {error.strerror or error}") from None
    if not os.access(parent, os.W_OK):
        raise UserError(f"{option} {path}: the folder {parent} is not writable")
    try:
        tempfile.TemporaryFile(dir=parent).close()  # a system's own folder takes no file, whoever asks
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{option} {path}: the folder {parent} takes no file: {reason}") from None


def check_apart(**places: str | Path | Sequence[str] | None) -> None:
    """Refuse to write what another option reads or writes.

    Args:
        places: by the name of their option, those to write to first; `-` and None are no files.

    Raises:
        UserError: two options name one file, by whatever path.
    """
    seen: dict[str, str] = {}
    for name, given in reversed(places.items()):
        for path in [given] if isinstance(given, (str, Path)) else given or ():
            real = os.path.realpath(path)
            if real in seen and str(path) != "-" and seen[real] != name:
                raise UserError(f"--{name} {path}: is the file that --{seen[real]} names; name another")
            seen[real] = name


def _plain(value: Any) -> Any:
    """Dataclasses, paths and numbers to what JSON can say; a number that is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
