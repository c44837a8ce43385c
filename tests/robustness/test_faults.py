"""Faults lose nothing and end in one message: the suite of `tests.robustness.faults`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mmdit_cli.errors import UserError
from mmdit_cli.export.preconditions import Export
from mmdit_cli.export.program_export import export_program
from mmdit_cli.profile.kernels import write_trace
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config
from tests.robustness import faults, report
from tests.robustness.lab import COMMANDS, Lab
from tests.robustness.outcome import Outcome
from tests.support.paths import ROOT
from tests.support.toy import CPU


@pytest.mark.slow
def test_every_fault_is_answered_well_and_loses_nothing():
    found = list(faults.outcomes())
    assert len(found) >= 80 and report.failures(found) == []


def test_the_seed_draws_the_moments_and_nothing_else():
    first, again, other = ([case[:2] for case in faults.cases(seed)] for seed in (0, 0, 1))
    assert first == again != other
    assert Counter(group for group, _ in first) == Counter(group for group, _ in other)
    assert len(set(first)) == len(first)


def test_rows_add_up_and_failures_say_why():
    found = [
        Outcome("a", "x", True, False, ""),
        Outcome("a", "y", False, True, "gone"),
        Outcome("b", "z", True, True, ""),
    ]
    rows = report.rows(found)
    assert [row.cells() for row in rows] == [("a", "2", "1", "1"), ("b", "1", "1", "1"), ("all", "3", "2", "2")]
    assert report.failures(found) == ["a: y: lost; gone", "b: z: lost; "]
    assert "| all | 3 | 2 | 2 |" in report.markdown(rows, [], 1.0)


# no network

OFFLINE = """
import json, socket, sys

opened = []

def hook(event, details):
    if event.startswith("socket.") and event != "socket.gethostname":  # which asks nobody
        opened.append(event)
        raise OSError("no network here, and none is needed")

sys.addaudithook(hook)
from mmdit_cli.app import main

for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["mmdit", *arguments]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    if code or opened:
        raise SystemExit(f"{arguments} ends with {code}, sockets: {opened}")
try:
    socket.socket()
    print("a socket opens all the same")
except OSError:
    print("offline")
"""


@pytest.mark.slow
def test_no_command_opens_a_socket(tmp_path):
    Lab(tmp_path)  # the configs
    commands = [*COMMANDS.values(), ["configs", "adaptive"], ["train-toy", "--help"]]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["offline"]), done.stderr


# a file that can't be written whole


@contextmanager
def files_of(size: int):
    """No file grows beyond `size` bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small(folder: Path) -> ToolConfig:
    Lab(folder)
    return load_tool_config(folder / "tiny.yaml")


@pytest.mark.slow
def test_a_program_that_does_not_fit_is_one_error_and_leaves_the_old_file(tmp_path):
    """torch's own writer ends the process."""
    config, out = small(tmp_path), tmp_path / "out.pt2"
    out.write_bytes(b"old")
    with files_of(20_000), pytest.raises(UserError, match=r"out.pt2: File too large"):
        export_program(config, Export(out=out, force=True), format="pt2")
    assert out.read_bytes() == b"old" and not list(tmp_path.glob(".*"))


def test_a_trace_that_does_not_fit_is_an_error_and_leaves_the_old_file(tmp_path):
    """torch's own writer says nothing."""
    out = tmp_path / "trace.json"
    out.write_bytes(b"old")
    x = torch.randn(8, 8)
    call = lambda phase: [phase("forward"), *(x @ x for _ in range(500))]  # noqa: E731
    with files_of(20_000), pytest.raises(OSError, match="could not write the trace"):
        write_trace(call, [], CPU, out)
    assert out.read_bytes() == b"old" and not list(tmp_path.glob(".*"))
    write_trace(call, [], CPU, out)
    assert json.loads(out.read_bytes())["traceEvents"]
