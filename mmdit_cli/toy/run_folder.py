"""A run's folder: its name, what it says of the run, and how the run is stopped and found again."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import secrets
import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from mmdit.config.regular_file import read_regular
from mmdit.config.yaml_document import MAX_BYTES, parse
from mmdit.config.yaml_text import to_yaml
from mmdit.weights.atomic import write_atomic
from mmdit.weights.checkpoints import LONGEST, PREFIX
from mmdit.weights.locks import locked
from mmdit_cli import __version__
from mmdit_cli.errors import UserError
from mmdit_cli.output.console import is_main, is_one_of_several
from mmdit_cli.output.run_files import ABOUT, CONFIG, METRICS
from mmdit_cli.request.differing import differing
from mmdit_cli.request.request import DTYPES
from mmdit_cli.request.targets import writing
from mmdit_cli.request.typed import launched
from mmdit_cli.toy.checkpoints import checkpoint_to_resume

LOCK = ".mmdit-lock"


def open_run(name: str, run_dir: Path | None, *, resume: bool) -> AbstractContextManager[Path]:
    """The run's folder, new unless it is resumed, and locked as long as the run goes on.

    Raises:
        UserError: it exists and is not empty, is missing where it should be resumed, can't be made or written to, or
            another run is under way in it.
    """
    return _alone_in(check_run(run_dir)) if resume else new_folder(run_dir or in_runs(name))


def check_run(run_dir: Path | None) -> Path:
    """Refuse to resume what is no run, before anything is written into it.

    Raises:
        UserError: there is no such folder, nothing in it is a run's, or every checkpoint is damaged.
    """
    if run_dir is None:
        raise UserError("--resume needs the run's folder; pass --run-dir DIR")
    if not run_dir.is_dir():
        raise UserError(f"--run-dir {run_dir}: there is no such run to resume")
    if not holds_run(run_dir):
        raise UserError(f"--resume: {run_dir} is no run: it holds neither {CONFIG} nor a checkpoint")
    if is_main():  # which reads all of it
        checkpoint_to_resume(run_dir)
    return run_dir


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in it."""
    names = os.listdir(folder) if folder.is_dir() else []
    return any(name in (CONFIG, ABOUT, METRICS) or name.startswith(PREFIX) for name in names)


def open_comparison(folder: Path, *, resume: bool) -> AbstractContextManager[Path]:
    """The folder of several runs, new or empty unless they are resumed, and locked.

    Raises:
        UserError: as in `open_run`, or it holds a single run.
    """
    if not resume:
        return new_folder(folder)
    if not folder.is_dir():
        raise UserError(f"--run-dir {folder}: there is no such comparison to resume")
    if holds_run(folder):
        raise UserError(
            f"--run-dir {folder}: is one run; go on with it by --resume alone, without --config and --seeds"
        )
    return _alone_in(folder)


def in_runs(name: str) -> Path:
    """Where a run goes that was given no folder: in `runs`, named by the moment."""
    return Path("runs") / f"{safe_name(name)}-{datetime.now():%Y%m%d-%H%M%S-%f}"


def safe_name(name: str) -> str:
    """A config's name as that of a folder, in the letters that this system's names of files can have."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # a locale such as C
        name = name.encode("ascii", "replace").decode()
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder, or take an empty one, and lock it.

    Raises:
        UserError: it is not empty, not writable, can't be made, or another run is under way in it.
    """
    with writing("--run-dir", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        with writing("--run-dir", folder):
            if any(path.name != LOCK for path in folder.iterdir()):
                raise UserError(f"--run-dir {folder}: is not empty; name a new folder, or go on with it by --resume")
        yield folder


@contextmanager
def _alone_in(folder: Path) -> Iterator[Path]:
    """Hold the folder's lock, a file that says who does. It is free again when its process ends, however that happens.

    Where the file system knows no locks, two runs in one folder are not told apart.

    Raises:
        UserError: another process holds it, or the folder can't be written to.
    """
    path = folder / LOCK
    with writing("--run-dir", folder):
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
        for name in (LOCK, CONFIG, ABOUT, METRICS):
            if (folder / name).exists() and not (folder / name).is_file():  # reading a FIFO would wait for ever
                raise UserError(f"--run-dir {folder}: its {name} is not a regular file")
        path.touch()
    with locked(path) as ours:
        if ours is False:
            holder = ""
            with suppress(OSError):
                holder = path.read_text(encoding="utf-8").strip()
            raise UserError(f"--run-dir {folder}: another run is under way in it{holder and f' ({holder})'}")
        try:
            with suppress(OSError):  # who holds it is for people to read; on a full disk it holds nonetheless
                path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
            yield folder
        finally:
            with suppress(OSError):
                path.unlink()


def describe(
    folder: Path,
    identity: dict[str, Any],
    *,
    device: torch.device,
    command_line: Sequence[str],
    changes: Sequence[dict[str, Any]] = (),
) -> str:
    """Write the resolved config, and what the run was made with; `changes` are those it went on with, by step. The
    command that began it stands, and those that went on with it come after; so does the id, which is returned."""
    before = _about(folder)
    run_id = str(before.get("run_id") or secrets.token_hex(6))
    write_atomic(folder / CONFIG, to_yaml(identity["config"]).encode())
    about = {
        "run_id": run_id,
        "command_line": before.get("command_line", list(command_line)),
        "resumed_by": [*before.get("resumed_by", []), list(command_line)] if before else [],
        "seed": identity["seed"],
        "dtype": identity["dtype"],
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "mmdit_version": __version__,
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "changes": list(changes),
    }
    write_atomic(folder / ABOUT, (json.dumps(about, indent=2) + "\n").encode())
    return run_id


def described(folder: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """What `describe` wrote: the run's identity, None where it was not written yet, and the changes so far."""
    try:
        about = _about(folder)
        config = parse(read_regular(folder / CONFIG, MAX_BYTES + 1), CONFIG).data
        identity = {"seed": about["seed"], "dtype": about["dtype"], "config": config}
        return identity, [change for change in about.get("changes", []) if isinstance(change, dict)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, []


def _about(folder: Path) -> dict[str, Any]:
    """What the run was made with; empty where it was not written yet, or is damaged."""
    try:
        about = json.loads(read_regular(folder / ABOUT, LONGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def asked_of_run(folder: Path, **given: Any) -> dict[str, Any]:
    """What a run that is resumed was asked, as a `Request` calls it, where it is not given anew.

    Args:
        given: `config`, `dtype` and `seed`; None: the run's.

    Raises:
        UserError: it holds no config.
    """
    if given["config"] is None and not (folder / CONFIG).is_file():
        raise UserError(f"--resume: {folder} holds no {CONFIG}; give the run's --config")
    saved, _ = described(folder)
    dtype, seed = (saved or {}).get("dtype"), (saved or {}).get("seed")
    asked: dict[str, Any] = {} if given["config"] else {"configs": [str(folder / CONFIG)]}
    if given["dtype"] is None and isinstance(dtype, str) and dtype in DTYPES:
        asked["dtype"] = dtype
    if given["seed"] is None and isinstance(seed, int) and -(1 << 63) <= seed < 1 << 64:
        asked["seed"] = seed
    return asked


def resume_command(folder: Path, device: torch.device, parallel: str = "", track: Sequence[str] = ()) -> str:
    """What to type to go on with a run. `parallel`: how it is spread, if that is to be said. `track`: its trackers."""
    where = device.type if is_one_of_several() else str(device)  # each process takes one of its own
    more = ["--parallel", parallel] if parallel else []
    more += [word for kind in track for word in ("--track", kind)]
    return shlex.join(launched(["train-toy", "--resume", "--run-dir", str(folder), "--device", where, *more]))


def differences(saved: Any, wanted: Any) -> list[str]:
    """The dotted keys in which two documents differ, each with both values."""
    return [f"{key} was {json.dumps(a)}, is {json.dumps(b)}" for key, a, b in differing(saved, wanted)]
