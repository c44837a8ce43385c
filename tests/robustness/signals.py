"""Signals at random moments and at the very moment of a write, processes killed under torchrun, two runs at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.robustness.lab import COMMANDS, PATIENCE, TOY, Case, Lab, last_checkpoint, once, train_arguments, workshop

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}
MOMENTS, MORE = 2, 4  # of each signal in each command; and in those that write for long
CALLS = ("os.fsync:1", "os.fsync:2", "os.replace:1", "os.rename:1", "os.chmod:1", "os.mkdir:1")
TWICE = 0.5  # seconds in which a second Ctrl-C follows
BOUND = 60  # seconds in which the other processes of a group have to end


def cases(rng: random.Random) -> Iterator[Case]:
    for command in COMMANDS:
        moments = MORE if command in ("train-toy", "export") else MOMENTS
        for name in SIGNALS:
            for moment in range(moments):
                share = (moment + rng.random()) / moments
                check = partial(_signalled, command=command, name=name, share=share)
                yield "signals", f"{name} at {share:.0%} of {command}", check
        for moment in range(moments):
            share, later = (moment + rng.random()) / moments, TWICE * rng.random()
            check = partial(_signalled, command=command, name="SIGINT", share=share, later=later)
            yield "signals twice", f"SIGINT at {share:.0%} of {command}, again {later * 1e3:.0f} ms later", check
    for command in ("export", "export in shards", "flops", "train-toy"):
        for call in CALLS:
            for name in ("SIGKILL", "SIGTERM"):
                check = partial(_stopped_before, command=command, call=call, name=name)
                yield "signals at a write", f"{name} before {call} of {command}", check
    for number, (kind, rank) in enumerate((("ddp", 0), ("ddp", 1), ("fsdp", 0), ("fsdp", 1), ("fsdp", 1)), 1):
        steps = 5 * number + rng.randrange(5)
        check = partial(_worker_killed, kind=kind, rank=rank, steps=steps)
        yield "torchrun", f"process {rank} of 2 killed after {steps} steps, {kind}", check
    yield "torchrun", "SIGTERM to torchrun", partial(_worker_killed, kind="ddp", rank=-1, steps=5)
    for second in ("anew", "resumed", "compared"):
        yield "two runs", f"the second {second}", partial(_two_runs, second=second)
    yield "two runs", "in a comparison's folder", _into_a_comparison


@once
def durations() -> dict[str, float]:
    """Seconds that each command takes from when it hears signals to its end."""
    folder = workshop() / "durations"
    folder.mkdir()
    lab, found = Lab(folder), {}
    for command, arguments in COMMANDS.items():
        lab.prepare(command)
        process = lab.start(*arguments)
        began = _hears_signals(process)
        lab.finish(process)
        found[command] = time.monotonic() - began
    return found


def _hears_signals(process: subprocess.Popen[bytes]) -> float:
    """Wait until the process catches SIGTERM: what comes before is Python's own start."""
    bit = 1 << (signal.SIGTERM - 1)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        if int(status.partition("SigCgt:")[2].split()[0], 16) & bit:
            break
        time.sleep(0.002)
    return time.monotonic()


def _signalled(lab: Lab, *, command: str, name: str, share: float, later: float | None = None) -> None:
    lab.prepare(command)
    seconds = durations()[command] * share
    process = lab.start(*COMMANDS[command])
    _hears_signals(process)
    time.sleep(seconds)
    number = signal.Signals[name]
    process.send_signal(number)
    if later is not None:
        time.sleep(later)
        process.send_signal(number)
    done = lab.finish(process, BOUND)
    # the end may have come first; what has said all it had to say dies silently
    lab.ends(done, SIGNALS[name], 0, -number, quiet=number == signal.SIGKILL)
    _recovers(lab, command, killed=number == signal.SIGKILL)


def _stopped_before(lab: Lab, *, command: str, call: str, name: str) -> None:
    lab.prepare(command)
    number = signal.Signals[name]
    done = lab.run(*COMMANDS[command], faults=f"stop:{call}:{int(number)}")
    lab.ends(done, SIGNALS[name], 0)
    _recovers(lab, command, killed=number == signal.SIGKILL)


def _recovers(lab: Lab, command: str, *, killed: bool) -> None:
    """Nothing is partial; after SIGKILL, once the next write to the folder is done."""
    if command == "train-toy":
        lab.resumes()
        return
    if killed:
        before = list(lab.lost)
        lab.nothing_partial(command)  # the output itself is whole even before
        lab.lost = before + [loss for loss in lab.lost[len(before) :] if not loss.startswith("left behind")]
        lab.ends(lab.run(*COMMANDS[command]), 0)
    lab.nothing_partial(command)


def _long(lab: Lab, steps: int) -> None:
    lab.write("toy.yaml", TOY.format(name="toy", steps=steps))


def _together(kind: str) -> dict[str, str]:
    folder = workshop() / f"together-{kind}"
    folder.mkdir()
    lab = Lab(folder)
    _long(lab, 40)
    lab.run(*train_arguments(), "--parallel", kind, many=2)
    return last_checkpoint(folder / "run", 40)


# the bits that an unbroken run of two processes ends with
TOGETHER = {kind: once(partial(_together, kind)) for kind in ("ddp", "fsdp")}


def _worker_killed(lab: Lab, *, kind: str, rank: int, steps: int) -> None:
    _long(lab, 40)
    arguments = [*train_arguments(), "--parallel", kind]
    with (lab.folder / "err").open("wb") as err:
        process = lab.start(*arguments, many=2, stderr=err, faults="")
        _wait_for_lines(lab.folder / "run" / "metrics.jsonl", steps, process)
        if rank < 0:
            process.terminate()
        else:
            os.kill(_worker(process.pid, rank), signal.SIGKILL)
        lab.finish(process, BOUND)
    text = (lab.folder / "err").read_text(errors="replace")
    if "Traceback (most recent call last):\n  File" in text.split("torch/distributed")[0]:
        lab.wrong.append(f"a traceback of ours: {text[:300]!r}")
    if text.count("error: ") > 1:
        lab.wrong.append(f"{text.count('error: ')} messages")
    done = lab.run(*arguments, "--resume", many=2)
    if done.code:
        lab.wrong.append(f"does not resume: {done.err[-300:]!r}")
    lab.same_bits(last_checkpoint(lab.folder / "run", 40), TOGETHER[kind]())
    lab.nothing_partial("train-toy")


def _worker(parent: int, rank: int) -> int:
    """The process id of a rank among a launcher's children."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        if f"\0RANK={rank}\0".encode() in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise RuntimeError(f"no process of rank {rank}")


def _wait_for_lines(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.02)


def _two_runs(lab: Lab, *, second: str) -> None:
    """The first goes on undisturbed, the second is refused; the lock goes with the first, even by SIGKILL."""
    _long(lab, 100_000)
    first = lab.start(*train_arguments(), stderr=subprocess.DEVNULL)
    _wait_for_lines(lab.folder / "run" / "metrics.jsonl", 5, first)
    more = {"anew": [], "resumed": ["--resume"], "compared": ["--seeds", "2"]}[second]
    lab.ends(lab.run(*train_arguments(), *more), 2, says="another run is under way")
    if first.poll() is not None:
        lab.wrong.append("the first run ended")
    first.kill()
    lab.finish(first)
    step = max(int(path.name[-8:]) for path in (lab.folder / "run").glob("checkpoint-*"))
    _long(lab, step + 2)
    resumed = lab.run(*train_arguments(), "--resume", "--allow-changes")
    lab.ends(resumed, 0, says="train.steps was 100000")
    lab.nothing_partial("train-toy")


def _into_a_comparison(lab: Lab) -> None:
    _long(lab, 100_000)
    first = lab.start(*train_arguments(), "--seeds", "2", stderr=subprocess.DEVNULL)
    _wait_for_lines(lab.folder / "run" / "toy-seed0" / "metrics.jsonl", 5, first)
    for arguments in (train_arguments(), [*train_arguments(), "--seeds", "2"]):
        lab.ends(lab.run(*arguments), 2, says="another run is under way")
    lab.ends(lab.run(*train_arguments("run/toy-seed0"), "--resume"), 2, says="another run is under way")
    first.terminate()
    lab.finish(first)
    if first.returncode != SIGNALS["SIGTERM"]:
        lab.wrong.append(f"exit code {first.returncode} of a comparison that was terminated")
    shutil.rmtree(lab.folder / "run" / "toy-seed0")
    lab.nothing_partial("train-toy")
