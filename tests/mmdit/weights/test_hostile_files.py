"""Damaged and hostile weights: each is one line that names the file and what is wrong, at once, and costs no memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mmdit
from mmdit.weights.reader import WeightFiles
from mmdit.weights.saved_model import CheckpointError
from tests.support.damaged_weights import damaged_bytes, refused
from tests.support.marks import slow_but
from tests.support.paths import ROOT

CONFIG = {"variant": "two_modality", "depth": 1, "modalities": {"text": {"dim": 4}, "image": {"dim": 4}}}
CONFIG |= {"dim_cond": 4, "heads": 1, "dim_head": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("whole") / "m.safetensors"
    mmdit.save(mmdit.build(CONFIG), path)
    return path


@pytest.mark.parametrize("step", slow_but([1, 8], 8))
def test_every_damaged_file_is_refused_in_one_line(whole, step, tmp_path):
    damaged = dict(damaged_bytes(whole.read_bytes()))
    assert len(damaged) > 150
    for name, content in list(damaged.items())[::step]:
        path = tmp_path / "m.safetensors"
        path.write_bytes(content)
        assert content != whole.read_bytes(), name
        refused(path)


@pytest.mark.slow
def test_none_costs_the_memory_that_it_claims(whole):
    program = f"""
import resource, tempfile
import mmdit
from tests.support.damaged_weights import damaged_bytes, refused
raw = open({str(whole)!r}, "rb").read()
mmdit.load({str(whole)!r})
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
with tempfile.NamedTemporaryFile() as file:
    for name, content in damaged_bytes(raw):
        file.seek(0), file.truncate(), file.write(content), file.flush()
        refused(file.name)
    mmdit.load({str(whole)!r})
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("change", ["index", "header"])
def test_a_whole_file_of_another_shape_is_no_index_and_the_other_way_round(change, whole, tmp_path):
    path = tmp_path / ("model.safetensors.index.json" if change == "index" else "model.safetensors")
    path.write_bytes(whole.read_bytes() if change == "index" else b'{"weight_map": {"a": "model.safetensors"}}')
    assert ("its JSON can't be read" if change == "index" else "not a whole safetensors file") in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe",
        b"[" * 1_000_000,
        b'{"weight_map": "model.safetensors"}',
        b'{"weight_map": {"a": "m"}, "weight_map": {"a": "m"}}',
        b'{"weight_map": {"\\u001b\\n": "../x"}}',
        b'{"weight_map": {"a": "' + b"x" * 100_000 + b'"}}',
        b'{"weight_map": {"a": "\\ud800"}}',
        b'{"weight_map": {"a": "model.safetensors.index.json"}}',
        b" " * 8_000_001,
    ],
    ids=range(13),
)
def test_every_damaged_index_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        mmdit.load(path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and message.isprintable() and len(message) < 1500


# ------------------------------------------------------------------------------------------------ not a file to be read


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    assert refused(tmp_path / "fifo").endswith("is not a regular file")
    assert refused("/dev/zero").endswith("is not a regular file")
    assert refused("/dev/null").endswith("is not a regular file")
    assert refused(tmp_path / "link").endswith("is not a regular file")
    assert "is a folder without" in refused(tmp_path)


def test_what_is_not_there_or_can_not_be_opened_is_refused(whole, tmp_path, monkeypatch):
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    assert refused(tmp_path / "nothing").endswith("no such file")
    assert refused(tmp_path / "dangling").endswith("no such file")
    assert "can't be read: Too many levels" in refused(tmp_path / "loop")
    assert "can't be read: Not a directory" in refused(whole / "x")
    assert "can't be read: File name too long" in refused(tmp_path / ("x" * 300))
    with pytest.raises(CheckpointError, match="null byte"):
        mmdit.load("a\0b")
    if os.geteuid() == 0:  # root may read everything
        monkeypatch.setattr(os, "open", denied)
    else:
        whole.chmod(0)
    try:
        assert refused(whole).endswith("can't be read: Permission denied")
    finally:
        whole.chmod(0o600)


def denied(path, *arguments):
    raise PermissionError(13, "Permission denied", path)


def test_a_file_that_shrinks_before_its_tensors_are_read_is_refused(whole, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole.read_bytes())
    with WeightFiles(path) as files:
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(CheckpointError, match="m.safetensors: .* can't be read: "):
            files.read(next(iter(files.tensors)))


def test_a_file_that_is_another_one_when_its_tensors_are_read_is_refused(whole, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole.read_bytes())
    with WeightFiles(path) as files:
        name = next(iter(files.tensors))
        save_file({name: torch.zeros(1)}, path)
        with pytest.raises(CheckpointError, match="changed while it was read"):
            files.read(name)
