"""The same profile in processes of their own: what differs between them is noise that one process never sees, such as
where its memory came to lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from mmdit.options import as_data
from mmdit_cli.errors import UserError
from mmdit_cli.profile.profile_settings import Progress, Settings
from mmdit_cli.request.request import DTYPES
from mmdit_cli.request.tool_config import ToolConfig

PROCESSES = 5


def median_latencies(
    configs: Sequence[ToolConfig], settings: Settings, on_progress: Progress = lambda stage, done, total: None
) -> list[list[float]]:
    """Milliseconds of a call of each config: the median of each of 5 fresh processes, in which all of them are measured
    in rounds together as `settings` say.

    Raises:
        UserError: a process failed.
    """
    if settings.device.type == "cuda":
        torch.cuda.empty_cache()  # there has to be room for them
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.yaml" for number in range(len(configs))]
        for file, config in zip(files, configs, strict=True):
            file.write_text(json.dumps(as_data(config), ensure_ascii=False), encoding="utf-8")
        command = profile_command(files, settings)
        medians = []
        for number in range(PROCESSES):
            on_progress("in fresh processes", number, PROCESSES)
            medians.append(_medians(command))
    return [list(of_config) for of_config in zip(*medians, strict=True)]


def profile_command(files: Sequence[Path], settings: Settings) -> list[str]:
    """The command line that measures configs as `settings` say."""
    dtype = next(name for name, known in DTYPES.items() if getattr(torch, known) is settings.dtype)
    command = [sys.executable, "-m", "mmdit_cli", "profile", "--json", "--mode", settings.mode, "--dtype", dtype]
    command += [word for file in files for word in ("--config", str(file))]
    command += ["--device", str(settings.device), "--seed", str(settings.seed)]
    command += ["--max-seconds", str(settings.max_seconds)]
    command += ["--repeats", str(settings.repeats)] if settings.repeats is not None else []
    return command + ["--compile"] * settings.compile + ["--cold"] * settings.cold


def _medians(command: Sequence[str]) -> list[float]:
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, env=os.environ | threads, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise UserError(f"--baseline: the profile could not be repeated in a fresh process: {said[-1]}")
    return [result["latency_ms"]["median"] for result in json.loads(done.stdout)["results"]]
