"""No space, no permission, something in the way; damaged checkpoints; a config edited between stop and resume."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.robustness.lab import COMMANDS, STEPS, TOY, WRITTEN, Case, Lab, train_arguments, whole_run

NOBODY = 65534
WITHOUT_MOUNT = "no tmpfs can be mounted here"
FILES = ("weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json")


def cases(rng: random.Random) -> Iterator[Case]:
    for command in WRITTEN:
        yield "no space", f"{command}: the file is cut off", partial(_limited, command=command, size=100)
    for size in (300, 1_000, 4_000, 12_000, 20_000):
        yield "no space", f"train-toy: files of {size} bytes at most", partial(_run_limited, size=size)
    for command in COMMANDS:
        for option in ((), ("--json",)) if command != "schema" else ((),):
            arguments = [*COMMANDS[command], *option]
            yield "no space", f"{' '.join([command, *option])} > /dev/full", partial(_full_output, arguments=arguments)
        yield "no space", f"{command} 2> /dev/full", partial(_full_messages, command=command)
    for size in ("16k", "120k", "400k"):
        yield "no space", f"train-toy on a disk of {size}", partial(_full_disk, size=size)
    yield "no space", "export to a disk of 8k", _full_disk_export
    for command in (*WRITTEN, "train-toy"):
        yield (
            "no permission",
            f"{command}, into a folder that may not be written to",
            partial(_not_allowed, command=command),
        )
        yield "in the way", f"{command}, a file where a folder should be", partial(_file_above, command=command)
        yield "in the way", f"{command}, the folder can't exist", partial(_no_folder, command=command)
        yield "in the way", f"{command}, something else under its name", partial(_taken, command=command)
    for name in FILES:
        for damage in (_cut, _flip, _empty, Path.unlink):
            title = f"{name}: {damage.__name__.strip('_')}"
            check = partial(_damaged, name=name, damage=damage)
            yield "damaged checkpoint", title, check
    yield "damaged checkpoint", "all of them", _all_damaged
    for setting, says in (
        ("train.learning_rate=0.01", "learning_rate"),
        ("train.batch_size=5", "batch_size"),
        ("train.steps=8", "train.steps was 6, is 8"),
        ("name=other", 'config.name was "toy"'),
    ):
        yield "edited config", setting, partial(_edited, setting=setting, says=says)
    yield "edited config", "train.steps=2", partial(_edited, setting="train.steps=2", says="train.steps", fits=False)
    yield "edited config", "model.depth=2", partial(_edited, setting="model.depth=2", says="model.depth", fits=False)
    yield "edited config", "before the first checkpoint", _edited_early


def _limit(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _limited(lab: Lab, *, command: str, size: int) -> None:
    lab.prepare(command)
    name = WRITTEN[command]
    done = lab.run(*COMMANDS[command], preexec_fn=_limit(size), stdout=subprocess.PIPE)
    lab.ends(done, 2, says=name)
    lab.nothing_partial(command)


def _run_limited(lab: Lab, *, size: int) -> None:
    lab.ends(lab.run(*train_arguments(), preexec_fn=_limit(size)), 2, says="File too large")
    lab.nothing_partial("train-toy")
    lab.resumes()


def _full_output(lab: Lab, *, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        lab.ends(lab.run(*arguments, stdout=full), 2, says="No space left on device")
    lab.nothing_partial("")


def _full_messages(lab: Lab, *, command: str) -> None:
    """What can't be said stops no work."""
    lab.prepare(command)
    with open("/dev/full", "wb") as full:
        lab.ends(lab.run(*COMMANDS[command], stderr=full), 0)
        wrong = lab.run(*COMMANDS[command][:1], "-c", "missing.yaml", stderr=full)
    if wrong.code != 2:
        lab.wrong.append(f"exit code {wrong.code} of a wrong request")
    lab.nothing_partial(command)


def _mounted(lab: Lab, size: str) -> Path | None:
    """A small file system of its own; None where this user may not mount."""
    disk = lab.folder / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    done = subprocess.run(["mount", *options], capture_output=True)
    return disk if done.returncode == 0 else None


def _full_disk(lab: Lab, *, size: str) -> None:
    disk = _mounted(lab, size)
    if disk is None:
        raise Untried(WITHOUT_MOUNT)
    try:
        lab.ends(lab.run(*train_arguments("disk/run")), 2, says="No space left on device")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        lab.resumes("disk/run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _full_disk_export(lab: Lab) -> None:
    disk = _mounted(lab, "8k")
    if disk is None:
        raise Untried(WITHOUT_MOUNT)
    try:
        (disk / "out.safetensors").write_bytes(b"old")
        done = lab.run("export", "-c", "tiny.yaml", "--out", "disk/out.safetensors", "--force")
        lab.ends(done, 2, says="space")
        if os.listdir(disk) != ["out.safetensors"] or (disk / "out.safetensors").read_bytes() != b"old":
            lab.lost.append(f"the old file, or something is left: {os.listdir(disk)}")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class Untried(Exception):
    """This machine can't make the fault."""


def _not_allowed(lab: Lab, *, command: str) -> None:
    """Its own folder may not be written to: as another user, or read-only where that user can't run this Python."""
    lab.prepare(command)
    with _not_writable(lab.folder) as identity:
        try:
            done = lab.run(*COMMANDS[command], **identity)
        except PermissionError:
            done = None
    if done is None:
        with _read_only(lab.folder):
            done = lab.run(*COMMANDS[command])
    lab.ends(done, 2)
    if not any(words in done.err for words in ("not writable", "ermission denied", "Read-only")):
        lab.wrong.append(f"does not say that it may not: {done.err[-300:]!r}")
    lab.nothing_partial(command)


@contextmanager
def _not_writable(folder: Path) -> Iterator[dict[str, Any]]:
    """Gives what makes a process one that may not write there."""
    os.chmod(folder, 0o555)
    try:
        root = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "env": {"HOME": "/nonexistent"}}
        yield root if os.getuid() == 0 else {}
    finally:
        os.chmod(folder, 0o755)


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    if subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True).returncode:
        raise Untried("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _pointed(command: str, target: str) -> list[str]:
    """The command's arguments with its output elsewhere."""
    name = WRITTEN.get(command, "run")
    return [target + Path(name).suffix if argument == name else argument for argument in COMMANDS[command]]


def _file_above(lab: Lab, *, command: str) -> None:
    lab.write("file", "mine")
    lab.ends(lab.run(*_pointed(command, "file/out")), 2, says="file")
    if (lab.folder / "file").read_text() != "mine":
        lab.lost.append("the file in the way")
    lab.nothing_partial("")


def _no_folder(lab: Lab, *, command: str) -> None:
    lab.ends(lab.run(*_pointed(command, "/proc/none/out")), 2, says="/proc/none")
    lab.nothing_partial("")


def _taken(lab: Lab, *, command: str) -> None:
    """A folder with a file of the user's where a file is written, a file where a folder is made."""
    target = lab.folder / next(x for x in _pointed(command, "mine") if x.startswith("mine"))
    if command in ("train-toy", "export in shards"):
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "thesis").write_text("mine")
    lab.ends(lab.run(*_pointed(command, "mine")), 2, says="mine")
    kept = target if target.is_file() else target / "thesis"
    if kept.read_text() != "mine":
        lab.lost.append(str(kept))
    lab.nothing_partial("")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = next(i for i in range(len(content) // 2, len(content)) if path.suffix != ".json" or content[i] in b"012345")
    content[place] ^= 1
    path.write_bytes(bytes(content))


def _damaged(lab: Lab, *, name: str, damage: Callable[[Path], None]) -> None:
    shutil.copytree(whole_run(), lab.folder / "run")
    damage(lab.folder / "run" / f"checkpoint-{STEPS:08d}" / name)
    done = lab.run(*train_arguments(), "--resume")
    lab.ends(done, 0, says=f"checkpoint-{STEPS:08d} is damaged")
    lab.resumes()


def _all_damaged(lab: Lab) -> None:
    shutil.copytree(whole_run(), lab.folder / "run")
    for path in (lab.folder / "run").glob("checkpoint-*/ema.safetensors"):
        _cut(path)
    lab.ends(lab.run(*train_arguments(), "--resume"), 2, says="no whole checkpoint")


def _edited(lab: Lab, *, setting: str, says: str, fits: bool = True) -> None:
    """Refused; gone on with when told, unless it can't be."""
    shutil.copytree(whole_run(), lab.folder / "run")
    arguments = [*train_arguments(), "--resume", "--set", setting]
    lab.ends(lab.run(*arguments), 2, says=says)
    lab.resumes()  # the refusal changed nothing
    lab.ends(lab.run(*arguments, "--allow-changes"), 0 if fits else 2, says=says if fits else "--resume")


def _edited_early(lab: Lab) -> None:
    shutil.copytree(whole_run(), lab.folder / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    lab.write("toy.yaml", TOY.format(name="toy", steps=4))
    lab.ends(lab.run(*train_arguments(), "--resume"), 2, says="train.steps was 6, is 4")
    lab.write("toy.yaml", TOY.format(name="toy", steps=STEPS))
    lab.resumes()
