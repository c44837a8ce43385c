"""The command that repeats a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmdit_cli.request.typed import typed_command
from mmdit_cli.toy.run_folder import resume_command
from tests.support.toy import CPU


def test_it_is_what_was_typed_with_torchrun_where_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mmdit", "flops", "-c", "a b"])
    assert typed_command() == ["mmdit", "flops", "-c", "a b"]
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "here", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    run = ["torchrun", "--nproc-per-node", "4", "-m", "mmdit_cli"]
    assert typed_command() == [*run, "flops", "-c", "a b"]
    assert resume_command(Path("r"), CPU) == " ".join([*run, "train-toy --resume --run-dir r --device cpu"])
    assert resume_command(Path("r"), CPU, "tp=2").endswith("--run-dir r --device cpu --parallel tp=2")
    assert resume_command(Path("r"), CPU, track=("wandb", "trackio")).endswith("cpu --track wandb --track trackio")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert typed_command()[:5] == ["torchrun", "--nnodes", "2", "--nproc-per-node", "2"]
    monkeypatch.setenv("WORLD_SIZE", "many")
    assert typed_command()[0] == "mmdit"
