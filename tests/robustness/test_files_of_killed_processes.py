"""What a killed process leaves: temporaries, folders moved aside, locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmdit.weights import atomic as files
from mmdit.weights.locks import locked
from tests.support.paths import ROOT


def killed_while_writing(folder: Path, writer: str) -> list[str]:
    """The names in the folder after SIGKILL in the midst of a write, by a fork that does nothing else."""
    pid = os.fork()
    if pid == 0:
        try:
            with getattr(files, writer)(folder / "out"):
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    return sorted(os.listdir(folder))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("writer", ["replacing", "replacing_folder"])
def test_the_next_write_removes_what_a_killed_process_left(writer, tmp_path):
    left = killed_while_writing(tmp_path, writer)
    assert len(left) == 1 and left[0].startswith(".mmdit-")
    files.write_atomic(tmp_path / "other", b"")
    assert os.listdir(tmp_path) == ["other"]


@pytest.mark.slow
def test_the_temporary_of_a_living_process_stays(tmp_path):
    code = """import sys; from mmdit.weights.atomic import replacing
with replacing(sys.argv[1]) as t: print(t, flush=True); input()"""
    command = [sys.executable, "-c", code, str(tmp_path / "slow")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT) as process:
        temporary = Path(process.stdout.readline().strip())
        files.write_atomic(tmp_path / "quick", b"")
        assert temporary.exists()
        process.communicate("\n")
    assert process.returncode == 0 and sorted(os.listdir(tmp_path)) == ["quick", "slow"]


def test_a_fifo_among_the_leftovers_is_left_alone_and_stops_nothing(tmp_path):
    os.mkfifo(tmp_path / ".mmdit-a.tmp")
    files.write_atomic(tmp_path / "out", b"content")
    assert sorted(os.listdir(tmp_path)) == [".mmdit-a.tmp", "out"]


def test_a_write_within_a_write_uses_the_outer_temporary(tmp_path):
    with files.replacing(tmp_path / "out") as outer:
        with files.replacing(outer) as inner:
            inner.write_bytes(b"content")
        assert inner == outer
        files.remove_leftovers(tmp_path)
        assert outer.exists()  # its lock is still that of the file
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"content"


def test_a_folder_moved_aside_by_a_killed_process_is_never_removed(tmp_path):
    """Where names can't be swapped, the old folder and the new one may be all that there is."""
    for name in (".mmdit-a.old", ".mmdit-a.tmp", ".mmdit-b.old"):
        (tmp_path / name).mkdir()
    files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".mmdit-a.old", ".mmdit-a.tmp"]  # of b the new one is in its place


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_two_folders_swap_names_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._swap(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path / "a") == ["b"] and os.listdir(tmp_path / "b") == ["a"]
    assert not files._swap(tmp_path / "a", tmp_path / "missing")


def test_a_lock_is_held_once_and_is_no_longer_that_of_a_removed_file(tmp_path):
    path = tmp_path / "x"
    path.touch()
    with locked(path) as first, locked(path) as second:
        assert (first, second) == (True, False)
    with locked(path) as again:
        assert again is True
    with locked(tmp_path / "missing") as none:
        assert none is False
