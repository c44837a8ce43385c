"""Where a fault is tried: a fresh folder with tiny configs, real processes, and what to expect of how they end."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

SITE = Path(__file__).resolve().parent / "site"
PATIENCE = 120  # seconds after which a process counts as hanging; so many for each that torchrun starts
STEPS = 6

TINY = """\
name: {name}
model:
  depth: 1
  modalities:
    text: {{dim: 8}}
    image: {{dim: 12}}
  dim_cond: 4
  heads: 1
  dim_head: 8
run:
  batch_size: 2
  tokens: {{text: 3, image: 5}}
"""
TOY = """\
name: {name}
model:
  depth: 1
  modalities:
    text:
      dim: 16
      input: {{kind: tokens, vocabulary: 64, max_length: 24}}
    image:
      dim: 16
      input: {{kind: patches, channels: 3, patch: 8, positions: sincos, max_size: 2}}
      output: {{kind: patches, channels: 3}}
  discard: [text]
  timestep: {{frequencies: 16, scale: 1000}}
  dim_cond: 16
  heads: 2
  dim_head: 8
  qk_rmsnorm: true
run:
  tokens: {{image: 4}}
train:
  steps: {steps}
  batch_size: 4
  warmup_steps: 2
  checkpoint_every: 2
  evaluate_every: 3
  evaluation_samples: 8
  sampler: {{steps: 2}}
"""
COMMANDS: dict[str, list[str]] = {
    "profile": ["profile", "-c", "tiny.yaml", "--repeats", "2", "--max-seconds", "0.2", "--report", "out.json"],
    "flops": ["flops", "-c", "tiny.yaml", "--report", "out.json"],
    "shape-check": ["shape-check", "-c", "tiny.yaml", "--report", "out.json"],
    "train-toy": ["train-toy", "-c", "toy.yaml", "--run-dir", "run"],
    "export": ["export", "-c", "tiny.yaml", "--out", "out.safetensors", "--force"],
    "export in shards": ["export", "-c", "tiny.yaml", "--out", "out", "--force", "--max-shard-size", "4KB"],
    "plan": ["plan", "-c", "tiny.yaml", "--card", "h100", "--gpus", "2,4,8", "--report", "out.json"],
    "schema": ["schema"],
}
WRITTEN = {
    "profile": "out.json",
    "flops": "out.json",
    "shape-check": "out.json",
    "plan": "out.json",
    "export": "out.safetensors",
    "export in shards": "out",
}
EXPECTED = re.compile(  # what a command may say beside its error
    r"^(not used by .*|.*: exists, and will be replaced|.* \d+/\d+ loss .*|"
    r".*is damaged \(.*\); passed over|going on from step .*|mmdit train-toy .*)$"
)
NOISE = ("Traceback", "Exception ignored", "unexpected ", "Warning")


@dataclass(frozen=True)
class Done:
    """How a process ended."""

    code: int
    out: str
    err: str


@dataclass
class Lab:
    """One case's folder and what was found wrong in it: in an answer, or as a loss."""

    folder: Path
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write("tiny.yaml", TINY.format(name="tiny"))
        self.write("toy.yaml", TOY.format(name="toy", steps=STEPS))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def start(self, *arguments: str, faults: str = "", many: int = 1, **options: Any) -> subprocess.Popen[bytes]:
        """A `mmdit` process, or `many` under torchrun."""
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(many)] if many > 1 else []
        own = {
            "PYTHONPATH": os.pathsep.join([str(SITE), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
            "MMDIT_FAULTS": faults,
        }
        kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
        env = {key: value for key, value in (kept | own | options.pop("env", {})).items() if value is not None}
        command = [sys.executable, *launch, "-m", "mmdit_cli", *arguments]
        given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen(command, cwd=self.folder, env=env, **given)

    def finish(self, process: subprocess.Popen[bytes], patience: float = PATIENCE) -> Done:
        """Wait for a process; one that hangs is killed and is a wrong answer."""
        try:
            out, err = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            self.wrong.append(f"still running after {patience:.0f} s")
        return Done(process.returncode, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace"))

    def run(self, *arguments: str, **options: Any) -> Done:
        return self.finish(self.start(*arguments, **options), PATIENCE * options.get("many", 1))

    def ends(self, done: Done, *codes: int, says: str = "", quiet: bool = False) -> None:
        """It ended with one of the exit codes, in one message if there is something to say, and without noise."""
        if done.code not in codes:
            self.wrong.append(f"exit code {done.code}, not {' or '.join(map(str, codes))}: {done.err[-300:]!r}")
        self.wrong += [f"says {noise!r}: {done.err[-600:]!r}" for noise in NOISE if noise in done.err + done.out]
        before, _, message = done.err.partition("error: ")
        if unexpected := [line for line in before.splitlines() if not EXPECTED.match(line)]:
            self.wrong.append(f"says {unexpected[:3]}")
        if done.code > 0 and (not message.strip() or "error: " in message):
            self.wrong.append(f"not one message: {done.err[-300:]!r}")
        if quiet and message:
            self.wrong.append(f"not quiet: {done.err[-300:]!r}")
        if says and says not in done.err:
            self.wrong.append(f"does not say {says!r}: {done.err[-300:]!r}")

    def prepare(self, command: str) -> None:
        """Put an old output where the command will write."""
        name = WRITTEN.get(command, "")
        if name == "out":
            shutil.copytree(whole_export() / "out", self.folder / "out")
        elif name:
            (self.folder / name).write_bytes(b'{"old": true}')

    def nothing_partial(self, command: str) -> None:
        """What the command writes is the old output or a whole new one, and no temporary is left anywhere."""
        if left := [str(path.relative_to(self.folder)) for path in self.folder.rglob(".*") if path.name != ".cache"]:
            self.lost.append(f"left behind: {left}")
        name = WRITTEN.get(command, "")
        path = self.folder / name
        if name and not path.exists():
            self.lost.append(f"{name} is gone")
        elif name.startswith("out.s") and path.read_bytes() != b'{"old": true}':
            if path.read_bytes() != (whole_export() / name).read_bytes():
                self.lost.append(f"{name} is partial")
        elif name == "out" and contents(path) != contents(whole_export() / name):
            self.lost.append(f"{name} is partial: {sorted(contents(path))}")
        elif name == "out.json":
            try:
                content = json.loads(path.read_bytes())
                if "old" not in content and not content["results"]:
                    self.lost.append(f"{name} has no results")
            except (ValueError, KeyError) as problem:
                self.lost.append(f"{name} is partial ({problem})")

    def resumes(self, run: str = "run", *options: str, **more: Any) -> None:
        """The run goes on to the end, and its last checkpoint has the bits of an unbroken run."""
        folder = self.folder / run
        visible = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
        self.ends(self.run(*train_arguments(run), *(["--resume"] if visible else []), *options, **more), 0)
        self.same_bits(last_checkpoint(folder, STEPS), unbroken())
        self.nothing_partial("train-toy")

    def same_bits(self, ours: dict[str, str], wanted: dict[str, str]) -> None:
        if different := [name for name, digest in wanted.items() if ours.get(name) != digest]:
            self.lost.append(f"not the bits of an unbroken run: {different}")


def train_arguments(run: str = "run") -> list[str]:
    return ["train-toy", "-c", "toy.yaml", "--run-dir", run]


def last_checkpoint(run: Path, steps: int) -> dict[str, str]:
    """The hashes of the last checkpoint's tensors."""
    return contents(run / f"checkpoint-{steps:08d}", "*.safetensors")


def contents(folder: Path, pattern: str = "*") -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern)}


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    """Made by the first thread that asks."""
    cached, lock = functools.cache(make), threading.Lock()

    def get() -> Any:
        with lock:
            return cached()

    return get


@once
def workshop() -> Path:
    """A folder for what all cases share, gone at the end of the process."""
    holder = tempfile.TemporaryDirectory(prefix="mmdit-faults-")
    workshop.holder = holder  # type: ignore[attr-defined]
    os.chmod(holder.name, 0o755)
    return Path(holder.name)


@once
def whole_run() -> Path:
    """An unbroken run of the toy config."""
    return _reference("whole-run", train_arguments()) / "run"


@once
def unbroken() -> dict[str, str]:
    return last_checkpoint(whole_run(), STEPS)


@once
def whole_export() -> Path:
    """A folder with whole exports, as a file and in shards."""
    _reference("whole-export", COMMANDS["export"])
    return _reference("whole-export", COMMANDS["export in shards"])


def _reference(name: str, arguments: Sequence[str]) -> Path:
    folder = workshop() / name
    folder.mkdir(exist_ok=True)
    lab = Lab(folder)
    done = lab.run(*arguments)
    if done.code:
        raise RuntimeError(f"mmdit {' '.join(arguments)} fails without any fault: {done.err}")
    return folder


Check = Callable[[Lab], None]
Case = tuple[str, str, Check]  # group, name, what is tried
