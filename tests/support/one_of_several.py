"""One of several processes, as torchrun would start it, which runs one command line after another.

    python -m tests.support.one_of_several OUT '[["train-toy", ...], ...]' PORT...

The processes meet at a port of its own for each command line. OUT gets the exit code, standard output and standard
error of each as JSON. No pictures are drawn, and memory is not estimated.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from mmdit_cli.app import main
from mmdit_cli.toy import training


def run(arguments: list[str], port: str) -> tuple[Any, str, str]:
    os.environ["MASTER_PORT"], sys.argv = port, ["mmdit", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    for name in ("_picture", "_curves", "check_fits"):
        setattr(training, name, lambda *_: None)
    place, lines, *ports = sys.argv[1:]
    done = [run(line, port) for line, port in zip(json.loads(lines), ports, strict=True)]
    Path(place).write_text(json.dumps(done))
