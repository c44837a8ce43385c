"""Our end of the process in which the published package runs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.paths import ROOT


def started(python: Path, task: str, value: str, **options: Any) -> subprocess.Popen[str]:
    """`theirs.py` by their python; neither this repository nor PYTHONPATH may hide their `mmdit` from it."""
    clean = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONNOUSERSITE": "1"}
    command = [str(python.absolute()), "-m", "published.theirs", task, value]
    return subprocess.Popen(command, cwd=ROOT / "benchmarks", env=clean, text=True, **options)


class Published:
    """Asks it, one JSON line after the other."""

    def __init__(self, python: Path, threads: int) -> None:
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process = started(python, "--serve", str(threads), **pipes)

    def ask(self, **request: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the published package's process ended while asked for {request}")
        return json.loads(line)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
