"""The command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def run_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Runs it in a folder of its own: exit code, standard output, standard error."""
    from mmdit_cli.app import main

    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["mmdit", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=stop.value.code or 0, stdout=out, stderr=err)

    return command
