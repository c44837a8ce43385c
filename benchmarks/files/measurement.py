"""Seconds and memory of work on files, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from benchmarks.files.cases import Case, model_of, write_source
from benchmarks.paths import ROOT
from mmdit.config import as_config
from mmdit.layouts.layout import Layout
from mmdit.options import as_written
from tests.support.sparse_files import sparse_shapes

MEMORY = 1e9  # bytes, the goal
MOST_SECONDS = 1.0  # to say what a file is, beyond importing torch
BLOCK = 16 << 20
TIMED = """
import os, sys, time
os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as the command has it
from pathlib import Path
import torch, mmdit
from mmdit_cli.export.layout_change import convert_weights
from mmdit_cli.export.preconditions import Export
from mmdit_cli.model_parts.meta_device import without_compiler
from mmdit_cli.request.tool_config import load_tool_config
config, weights, out, source, target = sys.argv[1:]
loaded = load_tool_config(config)
began = time.perf_counter()
asked = Export(out=Path(out), weights=Path(weights), dtype=torch.bfloat16)
with without_compiler():
    convert_weights(loaded, asked, source=source, target=target)
took = time.perf_counter() - began
held = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss has the parent's in it
print(took, int(held.split()[1]) * 1024)
"""


@dataclass(frozen=True)
class Row:
    """A case: bytes of its two files, the seconds of each round, and of copying and reading; peak memory in bytes."""

    case: Case
    read: int
    written: int
    seconds: list[float]
    copying: list[float]
    memory: int

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(a / b for a, b in zip(self.seconds, self.copying, strict=True))

    @property
    def met(self) -> bool:
        return self.ratio <= self.case.most and self.memory <= MEMORY


@dataclass(frozen=True)
class Asked:
    """Seconds that it takes to say what a file of so many bytes is, beyond importing torch."""

    bytes: int
    seconds: float

    @property
    def met(self) -> bool:
        return self.seconds <= MOST_SECONDS


def measure(case: Case, size: float, rounds: int, folder: Path) -> Row:
    """Make the file, and convert and copy it in turns."""
    source, out, config = folder / "source", folder / "out.safetensors", folder / "config.yaml"
    model = model_of(case, size)
    config.write_text(yaml.safe_dump({"name": "measured", "model": as_written(model)}, sort_keys=False))
    write_source(case, model, source)
    seconds, copying, memory, written = [], [], 0, 0
    for _ in range(rounds):
        line = [sys.executable, "-c", TIMED, str(config), str(source), str(out), case.source, case.target]
        done = subprocess.run(line, check=True, capture_output=True, text=True, cwd=ROOT, env=_environment())
        took, peak = map(float, done.stdout.split())
        seconds.append(took)
        memory, written = max(memory, round(peak)), out.stat().st_size
        larger = max(source, out, key=lambda path: path.stat().st_size)
        copying.append(copied(larger, folder / "copy"))
        out.unlink()
    return Row(case, source.stat().st_size, written, seconds, copying, memory)


def copied(path: Path, to: Path) -> float:
    """Seconds of copying a file, until it is on the disk, and of reading the copy once."""
    began = time.perf_counter()
    shutil.copyfile(path, to)
    with open(to, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        block = bytearray(BLOCK)
        while file.readinto(block):
            pass
    took = time.perf_counter() - began
    to.unlink()
    return took


def recognize(folder: Path, rounds: int, *, fewer_blocks: int = 0) -> Asked:
    """`mmdit shape-check --weights` of FLUX.1-dev's header before a hole of 24 GB, or with fewer blocks."""
    model = as_config("flux.1-dev").model
    layout = Layout("flux", replace(model, depth=model.depth - fewer_blocks))
    path = sparse_shapes(folder / "sparse.safetensors", layout.theirs)
    ours, theirs = ["-m", "mmdit_cli", "shape-check", "--weights", str(path)], ["-c", "import torch"]
    _process(ours), _process(theirs)
    took = [_process(ours) - _process(theirs) for _ in range(max(rounds, 3))]
    return Asked(path.stat().st_size, statistics.median(took))


def _process(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=_environment())
    return time.perf_counter() - began


def _environment() -> dict[str, str]:
    """Without what makes a process slower than that of a user: one thread, and modules that are compiled each time."""
    return {key: x for key, x in os.environ.items() if key not in ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")}
