"""What may not be written is refused before the work, whichever option names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmdit_cli.errors import UserError
from mmdit_cli.request.targets import check_apart, check_target, writing


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder/thesis").touch()
    Path("file").touch()
    Path("dangling").symlink_to("no/file")
    os.mkfifo("fifo")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("folder", {}, "--out folder: is a folder; name a file in it"),
        ("folder", {"example": "m.pt2"}, "--out folder: is a folder; name a file in it, such as folder/m.pt2"),
        ("no/file", {}, "--out no/file: there is no folder no; make it first"),
        ("file/x", {}, "--out file/x: there is no folder file; make it first"),
        ("dangling", {}, "no; make it first"),
        ("fifo", {}, "--out fifo: is not a regular file"),
        ("x" * 300, {}, "File name too long"),
        ("/proc/x", {}, "--out /proc/x: the folder /proc takes no file: "),
        ("x.pdf", {"suffixes": (".png", ".svg")}, "--out x.pdf: expected a name that ends in .png, .svg"),
        ("file", {"force": False}, "--out file: exists; --force replaces it"),
        ("folder", {"folder": True, "force": False}, "--out folder: exists; --force replaces it"),
        ("file", {"folder": True}, "--out file: is no folder; shards go into one of their own"),
        ("no/x", {"folder": True}, "--out no/x: there is no folder no; make it first"),
        (
            "folder",
            {"folder": True, "other": lambda path: "thesis"},
            "--out folder: holds 'thesis', which would be lost",
        ),
    ],
)
def test_what_is_in_the_way_is_named(path, options, message):
    before = sorted(os.listdir())
    with pytest.raises(UserError) as refused:
        check_target(Path(path), "--out", **options)
    assert message in str(refused.value)
    assert sorted(os.listdir()) == before


def test_what_can_be_written_passes():
    for path, options in {
        "new": {},
        "file": {},
        "x.PNG": {"suffixes": (".png",)},
        "new-folder": {"folder": True, "force": False},
        "folder": {"folder": True},
    }.items():
        check_target(Path(path), "--out", **options)


def test_a_place_is_not_given_to_two_options():
    check_apart({"config": ["c", "-", "-"], "weights": "c"}, out=Path("a"), report=Path("b"), plot=None)
    with pytest.raises(UserError, match="--out file: is the file that --config names"):
        check_apart({"config": ["c", "file"]}, out=Path("./file"))
    with pytest.raises(UserError, match="--plot file: is the file that --run-dir names"):
        check_apart({}, plot=Path("file"), run_dir=Path("folder/../file"))
    shipped = {"config": ["toy-digits", "folder"]}
    check_apart(shipped, run_dir=Path("toy-digits"), out=Path("folder"))


def test_the_systems_errors_name_the_option():
    with (
        pytest.raises(UserError, match="^--report no/x: No such file or directory$"),
        writing("--report", Path("no/x")),
    ):
        Path("no/x").write_text("")


def test_what_is_replaced_without_being_asked_for_is_said(tmp_path, capsys):
    (tmp_path / "r.json").write_text("{}")
    check_target(tmp_path / "r.json", "--report")
    assert capsys.readouterr().err == f"--report {tmp_path / 'r.json'}: exists, and will be replaced\n"
    check_target(tmp_path / "r.json", "--out", force=True)
    check_target(tmp_path / "new.json", "--report")
    assert capsys.readouterr().err == ""
