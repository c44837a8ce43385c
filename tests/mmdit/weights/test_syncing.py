"""What can't reach the disk is told, by whoever waits for it."""

from __future__ import annotations

import pytest
import torch

from mmdit.weights import syncing
from mmdit.weights.syncing import Syncing
from mmdit.weights.writer import specs_of, write_tensors


def fails(descriptor):
    raise OSError(5, "Input/output error")


def test_a_closed_file_is_synced_and_what_fails_is_an_error_at_the_end(tmp_path, monkeypatch):
    tensors = {"x": torch.zeros(4)}
    with Syncing() as synced:
        write_tensors(tmp_path / "x", specs_of(tensors), tensors.__getitem__, syncing=synced)
    monkeypatch.setattr(syncing.os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"), Syncing() as synced:
        write_tensors(tmp_path / "x", specs_of(tensors), tensors.__getitem__, syncing=synced)
        ended = True
    assert ended
