"""Runs one request of the command line in a watched child: a limit on its time and memory, its output in files.

A request takes two seconds to import torch, so a server imports everything once and forks itself for each request. The
server is a process of its own with one thread, because a fork keeps none but the thread that forks. A `real` request
runs as `python -m mmdit_cli`, which shows that the fork is faithful; it too is a child of the server, because Linux
counts the memory of whoever starts a program as the most that the program itself had.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.support.paths import ROOT

SECONDS = 10.0  # that an answer may take
STARTING = 20.0  # more for a process that has to import torch first
ROOM = 1 << 31  # bytes of address space beyond what the server has; 1 GB resident is judged by who asked
CLOSED = ""  # in place of a file for standard input


@dataclass(frozen=True)
class Ended:
    """How a request ended. `code` is None where it was killed; `peak` is the most that was resident, in bytes."""

    code: int | None
    out: bytes
    err: bytes
    seconds: float
    peak: int


class Server:
    """The process that forks; used as a context.

    Args:
        few: it imports torch alone, and each request the rest that it needs, which is quicker for a dozen.
    """

    def __init__(self, few: bool = False) -> None:
        self.few = few

    def __enter__(self) -> Server:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.robustness.process", *(["few"] if self.few else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            cwd=ROOT,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def run(self, arguments: Sequence[str], folder: Path, stdin: str = os.devnull, real: bool = False) -> Ended:
        """Run `mmdit ARGUMENTS` in a folder, with a file (or `CLOSED`) as its standard input.

        Args:
            real: in a program of its own, with the limits on time and none on memory.
        """
        assert self.process.stdin and self.process.stdout
        with tempfile.TemporaryDirectory() as streams:
            request = {"arguments": list(arguments), "folder": str(folder), "stdin": stdin, "streams": streams}
            request["real"] = real
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            if not answer:
                raise RuntimeError(f"the server ended with {self.process.wait()} at {list(arguments)}")
            return Ended(**json.loads(answer), **_streams(streams))


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    plain = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "RANK", "FORCE_COLOR")}
    return plain | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"}


def _streams(folder: str) -> dict[str, bytes]:
    limit = 1 << 20
    return {name: _head(Path(folder) / name, limit) for name in ("out", "err")}


def _head(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)


# ------------------------------------------------------------------------------------------------------- the server


def serve() -> NoReturn:
    """Answer requests, a line each, until there are none."""
    _warm(few="few" in sys.argv)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    for line in requests:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(request)
        answers.write(json.dumps(_wait(pid, SECONDS + STARTING * request["real"])).encode() + b"\n")
        answers.flush()
    os._exit(0)  # torch takes its time to leave


def _warm(few: bool) -> None:
    """Import what any request may need, and what torch imports only when it is used."""
    import mmdit
    import mmdit_cli

    if few:
        return
    for package in (mmdit, mmdit_cli):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    config = {"depth": 1, "modalities": {"x": {"dim": 8}}, "heads": 1, "dim_head": 8, "dim_cond": 8}
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        path = Path(folder) / "warm.yaml"
        path.write_text(json.dumps({"model": config}))
        for command in (["flops"], ["shape-check"], ["profile", "--estimate"]):
            with contextlib.redirect_stdout(nowhere):
                sys.argv = ["mmdit", *command, "-c", str(path)]
                code = _exit_code()
                assert code == 0, (command, code)


def _wait(pid: int, limit: float) -> dict[str, Any]:
    """Wait for a child that leads a session, end it at the limit, and say how it ended."""
    began = time.monotonic()
    descriptor = os.pidfd_open(pid)
    try:
        ended = bool(select.select([descriptor], [], [], limit)[0])
    finally:
        os.close(descriptor)
    seconds = time.monotonic() - began
    with contextlib.suppress(ProcessLookupError):
        if not ended:
            os.kill(pid, signal.SIGKILL)
        os.killpg(pid, signal.SIGKILL)  # and whatever it started
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code if ended and code >= 0 else None, "seconds": seconds, "peak": usage.ru_maxrss * 1024}


def _child(request: dict[str, Any]) -> NoReturn:
    """Become a fresh process as far as the request can tell, answer it, and end without the server's clean-up."""
    code = 1
    try:
        os.setsid()
        os.chdir(request["folder"])
        os.environ["TMPDIR"] = request["folder"]
        tempfile.tempdir = None
        if request["stdin"] == CLOSED:
            os.close(0)
            sys.stdin = None  # type: ignore[assignment]
        else:
            _redirect(request["stdin"], os.O_RDONLY, 0)
            sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        for number, name in ((1, "out"), (2, "err")):
            _redirect(f"{request['streams']}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, number)
        if request["real"]:
            os.execv(sys.executable, [sys.executable, "-m", "mmdit_cli", *request["arguments"]])
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["mmdit", *request["arguments"]]
        code = _exit_code()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _exit_code() -> int:
    from mmdit_cli.app import main

    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _redirect(path: str, flags: int, number: int) -> None:
    descriptor = os.open(path, flags, 0o600)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)


if __name__ == "__main__":
    serve()
