"""What the tool takes in fresh processes, beside what it can't do without: imports, and reading a file's tensors.

`python -m benchmarks.speed --only start-up` shows it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.paths import CONFIGS, ROOT

LARGE = str(CONFIGS / "sd3.5-large.yaml")
MEDIUM = str(CONFIGS / "sd3-medium.yaml")
CLI = ["-m", "mmdit_cli"]
ROUNDS = 7
COMMANDS = (
    ("mmdit --help", [*CLI, "--help"], "import typer, rich", ["-c", "import typer, rich"], 2.0),
    ("mmdit flops on sd3.5-large", [*CLI, "flops", "-c", LARGE], "import torch", ["-c", "import torch"], 2.5),
    (
        "mmdit shape-check on sd3.5-large",
        [*CLI, "shape-check", "-c", LARGE],
        "import torch",
        ["-c", "import torch"],
        2.5,
    ),
)
# both map the file, whose pages are read when they are first used: one byte of each is
READ = "\ntotal = sum(int(x.flatten().view(torch.uint8)[::4096].sum()) for x in tensors)"
OURS = "model = mmdit.load(path); tensors = list(model.state_dict().values())"
THEIRS = "tensors = list(load_file(path).values())"
LOAD = """
import sys, torch, mmdit
from time import perf_counter as clock
from safetensors.torch import load_file
import mmdit.weights.saved_model, mmdit.networks.model
path = sys.argv[1]

def private():
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous")) * 1024

before = private()
began = clock()
{load}
print(clock() - began)
print(private() - before)
"""


def seconds(arguments: list[str]) -> float:
    """Of one process, from start to end."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"},
    )
    return time.perf_counter() - began


def loaded(code: str, path: Path) -> tuple[float, int]:
    """Seconds of loading, imports apart, and the bytes of memory that are not the file's pages."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(load=code), str(path)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    first, second = done.stdout.split()
    return float(first), int(second)


def comparisons() -> Iterator[tuple[str, str, list[float], list[float], float, str]]:
    """(what, beside what, its seconds, the other's, the goal's ratio, a note), each pair taken in turn."""
    for name, ours, other, theirs, most in COMMANDS:
        seconds(ours), seconds(theirs)
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
        yield name, other, [a for a, _ in pairs], [b for _, b in pairs], most, ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_file(path)
        size = path.stat().st_size
        for what, read, most in (("mapped", "", float("inf")), ("and every page read", READ, 1.2)):
            loaded(OURS + read, path), loaded(THEIRS + read, path)
            found = [(loaded(OURS + read, path), loaded(THEIRS + read, path)) for _ in range(ROUNDS)]
            memory = max(ours[1] for ours, _ in found)
            note = f"a file of {size / 1e9:.1f} GB, {memory / 1e6:.0f} MB of memory beside its pages"
            name = f"mmdit.load of sd3-medium in bf16, {what}"
            yield name, "safetensors' load_file", [a[0] for a, _ in found], [b[0] for _, b in found], most, note


def write_file(path: Path) -> None:
    """Two billion parameters in bf16; what they are does not matter."""
    import mmdit
    from mmdit.config import as_config

    with torch.device("meta"):
        model = mmdit.build(as_config(MEDIUM)).to(torch.bfloat16)
    model.load_state_dict(
        {name: torch.zeros_like(x, device="cpu") for name, x in model.state_dict().items()}, assign=True
    )
    mmdit.save(model, path)
