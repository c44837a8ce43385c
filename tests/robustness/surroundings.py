"""Clocks that jump, terminals, pipes, locales, homes, and no network."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import random
import re
import struct
import termios
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.robustness.lab import COMMANDS, STEPS, TINY, TOY, Case, Lab

PLAIN = {
    command: [x for x in arguments if x not in ("--report", "out.json")] for command, arguments in COMMANDS.items()
}
LOCALES: dict[str, dict[str, str | None]] = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Latin-1 streams": {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
}
NAME = "模型-модель-né"
HOMES: dict[str, dict[str, str | None]] = {
    "that can't be written": {"HOME": "/proc"},
    "that is missing": {"HOME": "/nonexistent/home"},
    "that is not named": {"HOME": None},
}
COLOUR = re.compile(r"\x1b\[[0-9;]*[3-4][0-7]m")


def cases(rng: random.Random) -> Iterator[Case]:
    for command in ("profile", "train-toy", "flops"):
        yield "clock", f"{command}, as the clock jumps", partial(_jumping, command=command)
    for command in (*COMMANDS, "help", "wrong"):
        if command != "export in shards":
            yield "terminal", f"{command}, NO_COLOR", partial(_on_terminal, command=command, plain=True)
            yield "terminal", f"{command}, 20 columns", partial(_on_terminal, command=command, columns=20)
            yield "terminal", f"{command}, COLUMNS=20 in a pipe", partial(_narrow_pipe, command=command)
    for command in ("profile", "flops", "shape-check", "train-toy", "export", "schema", "help"):
        for option in ((), ("--json",)) if command not in ("schema", "help") else ((),):
            yield "closed pipe", " ".join([command, *option]), partial(_closed_pipe, command=command, option=option)
    for stream in ("stdin", "stdout", "stderr"):
        yield "closed pipe", f"no {stream} at all", partial(_no_stream, stream=stream)
    for locale, settings in LOCALES.items():
        for command in COMMANDS:
            check = partial(_elsewhere, arguments=PLAIN[command], env=settings, named=True)
            yield "locale", f"{command}, {locale}", check
        json_flops = partial(_elsewhere, arguments=[*COMMANDS["flops"], "--json"], env=settings, named=True)
        yield "locale", f"flops --json, {locale}", json_flops
        yield "locale", f"a run named by its config, {locale}", partial(_named_run, env=settings)
    for home, settings in HOMES.items():
        for command in ("profile", "train-toy", "export"):
            check = partial(_elsewhere, arguments=COMMANDS[command], env=settings)
            yield "home", f"{command}, a home {home}", check
    for command in COMMANDS:
        check = partial(_elsewhere, arguments=COMMANDS[command], env={}, faults="no-network")
        yield "no network", command, check
    program = ["export", "-c", "tiny.yaml", "--format", "pt2", "--out", "tiny.pt2"]
    yield "no network", "export as a program", partial(_elsewhere, arguments=program, env={}, faults="no-network")


def _arguments(command: str) -> list[str]:
    special = {"help": ["train-toy", "--help"], "wrong": ["flops", "-c", "tiny.yaml", "--set", "model.depht=2"]}
    return special.get(command) or PLAIN[command]


def _jumping(lab: Lab, *, command: str) -> None:
    done = lab.run(*PLAIN[command], "--json", faults="clock")
    lab.ends(done, 0)
    if done.code == 0:
        _no_negative_time(lab, json.loads(done.out), command)
    if command == "train-toy":
        lines = (lab.folder / "run" / "metrics.jsonl").read_text().splitlines()
        seconds = [record["seconds"] for record in map(json.loads, lines) if "seconds" in record]
        if seconds[0] <= 0 or seconds != sorted(seconds) or len(seconds) != STEPS:
            lab.wrong.append(f"seconds in metrics.jsonl: {seconds}")


def _no_negative_time(lab: Lab, value: Any, path: str) -> None:
    """Durations and rates are positive, and none is as long as the clock's jumps."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        name = f"{path}.{key}"
        timed = any(word in name for word in ("_ms", "_per_s", "seconds", "time"))
        if timed and isinstance(item, (int, float)) and not isinstance(item, bool):
            absurd = ("_ms" in name and item > 1e6) or ("seconds" in name and item > 1e3)
            if item < 0 or not math.isfinite(item) or absurd:
                lab.wrong.append(f"{name} is {item}")
        _no_negative_time(lab, item, name)


def _on_terminal(lab: Lab, *, command: str, plain: bool = False, columns: int = 100) -> None:
    """On a pseudo-terminal: no colour where none is wanted; no line is wider than the screen is without wrapping."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {"TERM": "xterm-256color", "NO_COLOR": "1" if plain else None}
    process = lab.start(*_arguments(command), env=env, stdout=slave, stderr=slave)
    os.close(slave)
    pieces = []
    while True:
        try:
            piece = os.read(master, 1 << 16)
        except OSError:  # the terminal is gone with its last process
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(master)
    lab.finish(process)
    text = b"".join(pieces).decode(errors="replace")
    wanted = 2 if command == "wrong" else 0
    if process.returncode != wanted or "Traceback" in text or not text.strip():
        lab.wrong.append(f"exit code {process.returncode}, not {wanted}: {text[-300:]!r}")
    if plain and COLOUR.search(text):
        lab.wrong.append(f"colour in spite of NO_COLOR: {text[:200]!r}")
    lab.nothing_partial("")


def _narrow_pipe(lab: Lab, *, command: str) -> None:
    done = lab.run(*_arguments(command), env={"COLUMNS": "20"})
    lab.ends(done, 2 if command == "wrong" else 0)
    if command != "wrong" and not done.out.strip():
        lab.wrong.append("nothing printed")


def _closed_pipe(lab: Lab, *, command: str, option: tuple[str, ...]) -> None:
    """The reader goes away before the first byte, and after the first line."""
    for read_one in (True, False):
        arguments = [*_arguments(command), *option]
        arguments = [f"run-{read_one}" if argument == "run" else argument for argument in arguments]
        source, sink = os.pipe()
        process = lab.start(*arguments, stdout=sink)
        os.close(sink)
        with os.fdopen(source, "rb") as reader:
            if read_one:
                reader.readline()
        lab.ends(lab.finish(process), 0)
    lab.nothing_partial("")


def _no_stream(lab: Lab, *, stream: str) -> None:
    number = ("stdin", "stdout", "stderr").index(stream)
    process = lab.start(*COMMANDS["flops"], preexec_fn=lambda: os.close(number))
    lab.ends(lab.finish(process), 0)
    if not json.loads((lab.folder / "out.json").read_text())["results"]:
        lab.lost.append("the report")


def _elsewhere(
    lab: Lab, *, arguments: list[str], env: dict[str, str | None], named: bool = False, faults: str = ""
) -> None:
    """The command works in these surroundings and makes no noise about them; its error is one message, too."""
    if named:
        lab.write("tiny.yaml", TINY.format(name=NAME).replace("text", "текст").replace("image", "画像"))
        lab.write("toy.yaml", TOY.format(name=NAME, steps=STEPS))
    done = lab.run(*arguments, env=env, faults=faults)
    lab.ends(done, 0)
    if "--json" in arguments and done.code == 0:
        text = json.loads(done.out)["results"][0]["config"]
        if text != NAME:
            lab.wrong.append(f"the config's name became {text!r}")
    if arguments != ["schema"]:
        wrong = lab.run(*arguments, "--set", "model.глубина=2", env=env, faults=faults)
        lab.ends(wrong, 2, says="model.")
    lab.nothing_partial("")


def _named_run(lab: Lab, *, env: dict[str, str | None]) -> None:
    lab.write("toy.yaml", TOY.format(name=NAME, steps=STEPS))
    lab.ends(lab.run("train-toy", "-c", "toy.yaml", env=env), 0)
    if len(list((lab.folder / "runs").glob(f"*/checkpoint-{STEPS:08d}"))) != 1:
        lab.lost.append("the run's checkpoint")
