"""A command line of the docs, run in this process."""

from __future__ import annotations

import contextlib
import io
import runpy
import shlex
import sys
from pathlib import Path

import pytest


def in_this_process(line: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error; pipes and `> FILE` are followed."""
    code, out, errors = 0, "", ""
    for part in line.split(" | "):
        part, _, target = part.partition(" > ")
        given, caught, caught_errors = (io.TextIOWrapper(io.BytesIO(x.encode()), "utf-8") for x in (out, "", ""))
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(caught),
            contextlib.redirect_stderr(caught_errors),
        ):
            patch.setattr(sys, "stdin", given)
            code = _call(shlex.split(part), patch)
        out, error = (_written(stream) for stream in (caught, caught_errors))
        errors += error
        if target:
            Path(target).write_text(out, encoding="utf-8")
    return code, out, errors


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


def _call(words: list[str], patch: pytest.MonkeyPatch) -> int:
    try:
        if words[0] == "mmdit":
            from mmdit_cli.app import main

            patch.setattr(sys, "argv", words)
            main()
        elif words[:2] == ["python", "-m"]:
            patch.setattr(sys, "argv", words[2:])
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            assert words[0] == "python", words
            patch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0
