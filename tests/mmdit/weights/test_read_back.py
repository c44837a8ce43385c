"""What was written, read back."""

from __future__ import annotations

import threading

import pytest
import torch

import mmdit
from mmdit.weights import read_back as module
from mmdit.weights.header import CheckpointError
from mmdit.weights.reader import WeightFiles


@pytest.mark.parametrize("stop", [KeyboardInterrupt, None])
def test_who_stops_or_finds_a_changed_tensor_does_not_wait_for_the_rest(stop, tmp_path, monkeypatch):
    bare = mmdit.build({"depth": 4, "modalities": {"text": {"dim": 8}, "image": {"dim": 8}}, "heads": 1, "dim_head": 8})
    written = mmdit.save(bare, tmp_path / "m.safetensors")
    read, stopped = [], threading.Event()

    def digest(files, name):
        read.append(name)
        if len(read) > 1:
            stopped.wait(0.1)  # as what is large takes its time
        return written.digests[name] if stop else "another"

    def interrupt(done, total):
        raise stop

    monkeypatch.setattr(WeightFiles, "digest", digest)
    with pytest.raises(stop or CheckpointError):
        module.read_back(tmp_path / "m.safetensors", written, interrupt)
    assert len(read) <= 2 + module.READERS < len(written.digests)


def test_what_is_whole_is_told_tensor_by_tensor(tmp_path):
    bare = mmdit.build({"depth": 1, "modalities": {"text": {"dim": 8}, "image": {"dim": 8}}, "heads": 1, "dim_head": 8})
    written = mmdit.save(bare, tmp_path / "m.safetensors", dtype=torch.bfloat16)
    told = []
    module.read_back(tmp_path / "m.safetensors", written, lambda done, total: told.append((done, total)))
    count = len(written.digests)
    assert told == [(done, count) for done in range(1, count + 1)]
