from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mmdit.weights import atomic as files


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    target = tmp_path / "x"
    files.write_atomic(target, b"one")
    with pytest.raises(FileExistsError, match="File exists"):
        files.write_atomic(target, b"two", force=False)
    assert target.read_bytes() == b"one"
    files.write_atomic(target, b"two")
    assert target.read_bytes() == b"two" and left_in(tmp_path) == ["x"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_file_is_on_the_disk_before_it_takes_its_name_and_then_the_name_is(tmp_path, monkeypatch):
    done, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}"))))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("replaced"), replace(old, new)))
    files.write_atomic(tmp_path / "x", b"one")
    file, *rest = done
    assert file.startswith(".mmdit-") and rest == ["replaced", tmp_path.name]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_is_on_the_disk_under_its_name_before_the_old_one_goes(swaps, tmp_path, monkeypatch):
    done, remove = [], files._remove
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}"))))
    monkeypatch.setattr(
        files, "_remove", lambda path: (done.append("removed") if path.exists() else None, remove(path))
    )
    if not swaps:
        monkeypatch.setattr(files, "_swap", lambda one, other: False)
    for content in (b"one", b"two"):
        done.clear()
        with files.replacing_folder(tmp_path / "out") as folder:
            (folder / "x").write_bytes(content)
    assert done == ["x", folder.name, "out", tmp_path.name, "removed"]
    assert (tmp_path / "out" / "x").read_bytes() == b"two" and left_in(tmp_path) == ["out"]


def test_links_keep_pointing_and_modes_are_those_of_any_file(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    files.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    files.write_atomic(tmp_path / "fresh", b"")
    (tmp_path / "usual").touch()
    assert (tmp_path / "fresh").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_in_the_way_or_missing_is_an_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        files.write_atomic(tmp_path, b"")
    with pytest.raises(FileNotFoundError):
        files.write_atomic(tmp_path / "no" / "x", b"")


@pytest.mark.parametrize(
    "problem", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_a_folder_that_can_not_be_finished_leaves_the_old_one_and_nothing_else(problem, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_bytes(b"old")
    with pytest.raises(type(problem)), files.replacing_folder(tmp_path / "out") as temporary:
        (temporary / "new").write_bytes(b"half")
        raise problem
    assert left_in(tmp_path) == ["out"] and left_in(tmp_path / "out") == ["old"]


def test_a_folder_that_can_not_be_moved_in_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    rename = os.rename

    def refused(source, target):
        if str(source).endswith(".tmp"):
            raise PermissionError(13, "Permission denied", str(source))
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", refused)
    monkeypatch.setattr(files, "_swap", lambda one, other: False)  # as on a system that can't
    with pytest.raises(PermissionError) as caught, files.replacing_folder(tmp_path / "out") as temporary:
        (temporary / "new").touch()
    assert caught.value.filename == str(tmp_path / "out")  # the name the user knows
    assert left_in(tmp_path) == ["out"] and left_in(tmp_path / "out") == ["old"]


def test_a_folder_is_replaced_whole_and_keeps_its_mode(tmp_path):
    (tmp_path / "real").mkdir(mode=0o750)
    (tmp_path / "real" / "old").touch()
    (tmp_path / "link").symlink_to("real")
    with files.replacing_folder(tmp_path / "link") as temporary:
        assert left_in(temporary) == [] and left_in(tmp_path / "real") == ["old"]
        (temporary / "new").touch()
    assert (tmp_path / "link").is_symlink() and left_in(tmp_path / "real") == ["new"]
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o750 and left_in(tmp_path) == ["link", "real"]


def test_only_an_empty_folder_is_replaced_without_force(tmp_path):
    with files.replacing_folder(tmp_path / "out", force=False) as temporary:
        pass
    assert left_in(tmp_path) == ["out"]
    with files.replacing_folder(tmp_path / "out", force=False) as temporary:
        (temporary / "a").touch()
    with pytest.raises(FileExistsError), files.replacing_folder(tmp_path / "out", force=False):
        raise AssertionError("never reached")
    assert left_in(tmp_path / "out") == ["a"]


def test_what_would_be_lost_with_a_folder_or_is_none_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis").touch()
    (tmp_path / "file").touch()
    for path, message in (("out", "holds 'thesis'"), ("file", "Is no folder"), ("no/out", "No such folder")):
        with (
            pytest.raises(OSError, match=message),
            files.replacing_folder(tmp_path / path, other=lambda folder: os.listdir(folder)[0]),
        ):
            raise AssertionError("never reached")
    assert left_in(tmp_path) == ["file", "out"] and left_in(tmp_path / "out") == ["thesis"]
