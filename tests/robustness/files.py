"""Wrong requests about files: what can't be read, what is not what it should be, and where nothing can be written."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.robustness.cases import COMMANDS, FILE, LONG, SCRIPTS, UNPRINTABLE, Case, Text, Turns, base, case
from tests.robustness.process import CLOSED

Prepare = Callable[[Path], None]


def file_cases(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """All of them."""
    for kind in (_unreadable, _extended, _stdin, _weights, _places, _runs, _baselines):
        yield from kind(draw, turns)


def _odd_files() -> dict[str, Prepare]:
    """What can stand at a path and is no file to be read, by name."""

    def bound(folder: Path) -> None:
        with socket.socket(socket.AF_UNIX) as it:
            here = os.open(folder, os.O_RDONLY)  # a socket's path may be no longer than 108 bytes
            it.bind(f"/proc/self/fd/{here}/odd")
            os.close(here)

    def sparse(folder: Path) -> None:
        with (folder / "odd").open("wb") as file:
            file.truncate(1 << 40)

    return {
        "a folder": lambda folder: (folder / "odd").mkdir(),
        "a FIFO": lambda folder: os.mkfifo(folder / "odd"),
        "a link to zeros": lambda folder: (folder / "odd").symlink_to("/dev/zero"),
        "a link to noise": lambda folder: (folder / "odd").symlink_to("/dev/urandom"),
        "a link to nothing": lambda folder: (folder / "odd").symlink_to("nowhere"),
        "a link to the null device": lambda folder: (folder / "odd").symlink_to("/dev/null"),
        "a link to itself": lambda folder: (folder / "odd").symlink_to("odd"),
        "two links in a circle": lambda folder: _links(folder, "odd", "even"),
        "a link to memory": lambda folder: (folder / "odd").symlink_to("/proc/self/mem"),
        "a socket": bound,
        "a TB of nothing": sparse,
        "noise": lambda folder: _write(folder / "odd", bytes(range(256)) * 40),
        "nothing there": lambda folder: None,
    }


def _links(folder: Path, one: str, other: str) -> None:
    (folder / one).symlink_to(other)
    (folder / other).symlink_to(one)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _unreadable(draw: random.Random, turns: Turns) -> Iterator[Case]:
    for name, prepare in _odd_files().items():
        for _ in range(3):
            yield case("unreadable config", name, turns.request(config="odd"), "odd", prepare=prepare)
    paths: dict[str, str | tuple[str, ...]] = {
        "/dev/zero": "/dev/zero",
        "/dev/null": "/dev/null",
        "/dev/random": "/dev/random",
        "/proc/self/mem": "/proc/self/mem",
        ".": ".",
        "": "no such file",
        "keep.txt/base.yaml": "keep.txt/base.yaml",
        "keep.txt": "keep.txt:",
        "bse.yaml": f"did you mean {FILE}",
        "nowhere/base.yaml": "nowhere",
        LONG: "File name too long",
        "a/" * 3000: "a/a/",
        "~/base.yaml": "~/base.yaml",
        "https://example.com/base.yaml": "https",
        "base.yaml ": "did you mean",
        "base.yaml\n": ("\\n",),
        UNPRINTABLE: "\\x1b[31m",
        os.fsdecode(b"n\xff\xfe.yaml"): "\\udcff",
        **{f"{word}.yaml": (word, word.encode("unicode_escape").decode()) for word in SCRIPTS},
    }
    for path, names in paths.items():
        for _ in range(2):
            yield case("unreadable config", repr(path[:40]), turns.request(config=path), names)


def _extended(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """What a config can't extend."""
    asks = {FILE: b"name: x\nextends: odd\n"}
    for name, prepare in _odd_files().items():
        yield case("extends", name, turns.request(), f"{FILE}:2:10: extends: odd", files=asks, prepare=prepare)
    for text in (
        "5",
        "true",
        "[keep.txt]",
        "{a: 1}",
        "''",
        ".inf",
        "-",
        "bse.yaml",
        "a/" * 3000,
        LONG,
        "/dev/zero",
        "~/x",
    ):
        yield case("extends", text[:40], turns.request(), f"{FILE}:1:10", files={FILE: f"extends: {text}\n".encode()})
    for name, files in {
        "itself": {FILE: f"extends: {FILE}\n"},
        "itself by another path": {FILE: f"extends: old/../{FILE}\n"},
        "a circle": {
            FILE: "extends: b.yaml\n",
            "b.yaml": "extends: old/c.yaml\n",
            "old/c.yaml": "extends: ../b.yaml\n",
        },
        "a long chain": {FILE: "extends: 0.yaml\n"} | {f"{i}.yaml": f"extends: {i + 1}.yaml\n" for i in range(3000)},
        "a chain of large ones": {FILE: "extends: 0.yaml\n"}
        | {f"{i}.yaml": f"extends: {i + 1}.yaml\nname: {'x' * (1 << 19)}\n" for i in range(20)},
        "a chain of many values": {FILE: "extends: 0.yaml\n"}
        | {f"{i}.yaml": f"extends: {i + 1}.yaml\nk{i}: [{'1,' * 9_000}]\n" for i in range(12)},
    }.items():
        for _ in range(2):
            given = {path: text.encode() for path, text in files.items()}
            yield case("extends", name, turns.request(), "yaml:1:10: extends: ", files=given)


def _stdin(draw: random.Random, turns: Turns) -> Iterator[Case]:
    contents: dict[str, bytes] = {
        "empty": b"",
        "noise": bytes(draw.randrange(256) for _ in range(4000)),
        "a wrong type": Text.of(base({"model.depth": "four"})).encode(),
        "an unknown key": b"modle: {}\n",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
    }
    for name, content in contents.items():
        for _ in range(2):
            request = turns.request(config="-")
            yield case("standard input", name, request, "<stdin>", files={"given": content}, stdin="given")
    for name, stdin in {"zeros": "/dev/zero", "urandom": "/dev/urandom", "closed": CLOSED}.items():
        for _ in range(2):
            yield case("standard input", name, turns.request(config="-"), "<stdin>", stdin=stdin)
    for command in ("profile", "estimate", "flops", "train-toy"):
        yield case("standard input", "twice", turns.request("-c", "-", config="-", of=command), "--config -")


def _weight_files() -> dict[str, bytes]:
    """Contents that are no weights."""

    def pack(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
        return struct.pack("<Q", len(header) if length is None else length) + header + body

    one = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return {
        "empty": b"",
        "text": b"not weights\n" * 50,
        "a pickle": b"\x80\x04\x95" + bytes(500),
        "a zip": b"PK\x03\x04" + bytes(500),
        "zeros": bytes(5000),
        "a header that claims an EB": pack(one, bytes(4), 1 << 60),
        "a header cut short": pack(one)[:-9],
        "a body cut short": pack(one, bytes(3)),
        "a body too long": pack(one, bytes(9)),
        "a header that is a list": pack(b"[1, 2, 3]"),
        "a header that is no JSON": pack(b"{" * 400),
        "a deep header": pack(b'{"a":' + b"[" * 100_000),
        "negative offsets": pack(one.replace(b"[0,4]", b"[-4,0]"), bytes(4)),
        "a huge shape": pack(one.replace(b"[1]", b"[4611686018427387904]"), bytes(4)),
        "an unknown dtype": pack(one.replace(b"F32", b"F99"), bytes(4)),
        "a name of control characters": pack(one.replace(b'"x"', b'"\\u001b[31m"').replace(b"F32", b"F9"), bytes(4)),
        "a config": Text.of(base()).encode(),
    }


def _weights(draw: random.Random, turns: Turns) -> Iterator[Case]:
    def request(command: str) -> tuple[str, ...]:
        return turns.request("--weights", "odd", of=command)

    for name, content in _weight_files().items():
        for command in ("shape-check", "export"):
            yield case("weights", f"{name}, {command}", request(command), "odd", files={"odd": content})
    for name, prepare in _odd_files().items():
        for command in ("shape-check", "export"):
            yield case("weights", f"{name}, {command}", request(command), "odd", prepare=prepare)
    index = "odd/model.safetensors.index.json"
    for name, content in {
        "no JSON": b"{",
        "a list": b"[]",
        "no map": b'{"weight_map": 7}',
        "a shard outside": b'{"weight_map": {"x": "../keep.txt"}}',
        "a shard that is missing": b'{"weight_map": {"x": "model-00001-of-00001.safetensors"}}',
        "a shard of control characters": b'{"weight_map": {"x": "\\u001b[31m"}}',
        "deep": b"[" * 100_000,
    }.items():
        for command in ("shape-check", "export"):
            yield case("weights", f"an index, {name}, {command}", request(command), "odd", files={index: content})
    for layout in ("diffusers", "stability", "flux", "lucidrains"):
        options = ("--weights", "keep.txt", "--from", layout)
        yield case("weights", f"of {layout}", turns.request(*options, of="export"), (layout, "keep.txt"))


def _places(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """Where nothing can be written, or where something is that must stay."""
    bad: dict[str, str] = {
        "nowhere/r": "nowhere", "keep.txt/r": "keep.txt", "/dev/null/r": "/dev/null", "/proc/self/r": "/proc/self",
        "/proc/r": "/proc", "/sys/r": "/sys", LONG: "xxx", f"{LONG}/r": "xxx", UNPRINTABLE + "/r": "\\x1b[31m",
        os.fsdecode(b"\xff\xfe") + "/r": "\\udcff", "a/" * 2200 + "r": "a/a/", f"{SCRIPTS[1]}/r": SCRIPTS[1],
        "round/r": "round", "circle/r": "circle", "line\nbreak/r": "\\n",
    }  # fmt: skip
    options = [(command, "--report", ".json") for command in COMMANDS]
    options += [("profile", "--trace", ".json"), ("profile", "--plot", ".png"), ("export", "--out", ".safetensors")]
    for path, names in bad.items():
        for command, option, suffix in draw.sample(options, 3):
            request = turns.request(option, path + suffix, of=command)
            yield case("places", f"{option} {path[:40]!r}", request, option, names, prepare=_circle)
    for command, option, suffix in options:
        for name, prepare in {"a folder": Path.mkdir, "a FIFO": os.mkfifo}.items():
            request = turns.request(option, f"odd{suffix}", of=command)
            place = f"odd{suffix}"
            yield case("places", f"{option} {name}", request, option, prepare=_made(prepare, place))
        yield case("places", f"{option} ''", turns.request(option, "", of=command), option)
    for command in COMMANDS:
        for path in ("r.txt", "report", "r.json.gz", ".json", f"r.{SCRIPTS[0]}"):
            yield case("places", f"--report {path}", turns.request("--report", path, of=command), "--report")
    out = ("--out", "keep.txt"), ("--out", "old"), ("--out", "old", "--max-shard-size", "1GB")
    for request in (*out, ("--out", "old", "--max-shard-size", "1GB", "--force"), ("--out", "/dev/zero")):
        yield case("places", " ".join(request), turns.request(*request, of="export"), "--out")
    for path in ("old", "keep.txt", "keep.txt/x", "/proc/x", "/dev/null", LONG, "circle", "/sys/x/y"):
        yield case("places", f"--run-dir {path}", turns.request("--run-dir", path, of="train-toy"), "--run-dir",
                    prepare=_circle)  # fmt: skip


def _circle(folder: Path) -> None:
    _links(folder, "circle", "round")


def _made(make: Callable[[Path], None], name: str) -> Prepare:
    return lambda folder: make(folder / name)


def _runs(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """--resume of what is no run, or of a run that is damaged."""
    state = "odd/checkpoint-00000001/state.json"
    for name, files in {
        "other files": {"odd/photo.jpg": b"\xff\xd8"},
        "a config alone": {"odd/notes.txt": b"run\n"},
        "no state": {"odd/checkpoint-00000001/weights.safetensors": b""},
        "an empty state": {state: b""},
        "a state that is no JSON": {state: b"\xff\xfe{"},
        "a state that is a list": {state: b"[1]"},
        "a state that is deep": {state: b"[" * 100_000},
        "a state of another kind": {state: b'{"step": "x", "sha256": 7}'},
        "a state without files": {state: json.dumps({"step": 1, "sha256": dict.fromkeys("abc", "")}).encode()},
    }.items():
        request = turns.request("--run-dir", "odd", "--resume", of="train-toy")
        yield case("runs", f"resume: {name}", request, "odd", files=files)
        if "state" in name:
            request = turns.request("--weights", "odd", of="export")
            yield case("runs", f"weights of a run: {name}", request, "odd", files=files)
    for name, prepare in _odd_files().items():
        request = turns.request("--run-dir", "odd", "--resume", of="train-toy")
        yield case("runs", f"resume: {name}", request, "odd", prepare=prepare)
    for name in ("config.yaml", "run.json", "metrics.jsonl", ".mmdit-lock"):
        request = turns.request("--run-dir", "odd", "--resume", of="train-toy")
        yield case("runs", f"resume: {name} is a FIFO", request, "odd", prepare=partial(_fifo_in_run, name=name))
    yield case("runs", "resume of nothing", ("train-toy", "-c", FILE, "--resume"), "--run-dir")


def _fifo_in_run(folder: Path, name: str) -> None:
    (folder / "odd").mkdir()
    (folder / "odd" / "run.json").write_bytes(b"{}")
    (folder / "odd" / name).unlink(missing_ok=True)
    os.mkfifo(folder / "odd" / name)


def _baselines(draw: random.Random, turns: Turns) -> Iterator[Case]:
    document = {"command": "profile", "results": [{"config": "base", "point": {}, "mode": "forward"}]}
    for name, content in {
        "empty": b"",
        "no JSON": b"{",
        "not UTF-8": b"\xff\xfe{}",
        "a list": b"[]",
        "deep": b"[" * 100_000,
        "no results": b'{"command": "profile"}',
        "results that are none": b'{"command": "profile", "results": 7}',
        "another command's": json.dumps(document | {"command": "flops"}).encode(),
        "another command of control characters": json.dumps(document | {"command": UNPRINTABLE}).encode(),
        "another config": json.dumps(document | {"results": [{"config": UNPRINTABLE}]}).encode(),
        "another mode": json.dumps(document | {"results": [{"config": "base", "point": {}, "mode": "x"}]}).encode(),
        "no figures": json.dumps(document).encode(),
        "a number of many digits": b'{"command": ' + b"9" * 10_000 + b"}",
    }.items():
        request = turns.request("--baseline", "odd", of="profile")
        yield case("baselines", name, request, "--baseline", files={"odd": content})
    for name, prepare in _odd_files().items():
        request = turns.request("--baseline", "odd", of="profile")
        yield case("baselines", name, request, "--baseline odd", prepare=prepare)
