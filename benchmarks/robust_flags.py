"""Wrong requests whose config is right: options, places, files that are none, and sizes that no machine holds."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from robust_cases import COMMANDS, FILE, SCRIPTS, Case, Text, Turns, base
from robust_process import CLOSED

UNPRINTABLE = "a\x1b[31mb"
LONG = "x" * 300
HUGE = str(1 << 62)
MEASURING = ("profile", "estimate", "flops")
Prepare = Callable[[Path], None]


def flag_cases(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """All of them."""
    for kind in (_unreadable, _stdin, _usage, _values, _settings, _sweeps, _too_large, _weights, _places, _runs):
        yield from kind(draw, turns)
    yield from _baselines(draw, turns)
    yield from _processes(draw, turns)


def _case(group: str, name: str, arguments: tuple[str, ...], *names: str | tuple[str, ...], **more: object) -> Case:
    must = tuple((each,) if isinstance(each, str) else each for each in names)
    return Case(group, name, arguments, must, **more)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- files


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
            yield _case("unreadable config", name, turns.request(config="odd"), "odd", prepare=prepare)
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
            yield _case("unreadable config", repr(path[:40]), turns.request(config=path), names)


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
            yield _case("standard input", name, request, "<stdin>", files={"given": content}, stdin="given")
    for name, stdin in {"zeros": "/dev/zero", "urandom": "/dev/urandom", "closed": CLOSED}.items():
        for _ in range(2):
            yield _case("standard input", name, turns.request(config="-"), "<stdin>", stdin=stdin)
    for command in ("profile", "estimate", "flops", "train-toy"):
        yield _case("standard input", "twice", turns.request("-c", "-", config="-", of=command), "--config -")


# ----------------------------------------------------------------------------------------------------------- options


def _usage(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """What Typer itself refuses."""
    yield _case("flags", "no command", ("nothing",), "nothing")
    yield _case("flags", "a command's typo", ("profil", "-c", FILE), "Did you mean 'profile'")
    for word in (*SCRIPTS[:4], UNPRINTABLE, ""):
        shown = word.encode("unicode_escape").decode() if word == UNPRINTABLE else word
        yield _case("flags", f"command {word!r}", (word, "-c", FILE), ("command", shown))
        yield _case("flags", f"option {word!r}", turns.request(f"--{word or '='}"), (f"--{shown}", "argument", "--="))
        yield _case("flags", f"argument {word!r}", turns.request(word or " "), shown or "argument")
    for command in COMMANDS:
        yield _case("flags", "no config", COMMANDS[command], "--config")
        yield _case("flags", "no value", turns.request("--device", of=command), "--device")
        yield _case("flags", "an unknown flag", turns.request("--wat", of=command), "--wat")
        yield _case("flags", "a flag's typo", turns.request("--sede", "1", of=command), "--sede")
        yield _case("flags", "a flag with a value", turns.request("--json=yes", of=command), "--json")
    for command, option in (("flops", "--mode"), ("shape-check", "--sweep"), ("export", "--repeats")):
        yield _case("flags", "another command's", turns.request(option, "1", of=command), option)
    yield _case("flags", "no --out", ("export", "-c", FILE), "--out")
    yield _case("flags", "schema's document", ("schema", "--document", "nothing"), "--document")
    yield _case("flags", "schema's argument", ("schema", "extra"), "extra")
    yield _case("flags", "schema's flag", ("schema", "--config", FILE), "--config")
    for arguments, names in {
        ("nothing",): "nothing", ("sd3-mediun",): "did you mean sd3-medium", ("sd3-medium", "--json"): "sd3-medium",
        ("../README",): "README", ("/etc/passwd",): "/etc/passwd", ("a", "b"): "(b)", ("--config", FILE): "--config",
        (SCRIPTS[1],): SCRIPTS[1], (UNPRINTABLE,): "\\x1b[31m", (LONG,): "xxx", ("--report", "nowhere/r.md"): "nowhere",
    }.items():  # fmt: skip
        yield _case("flags", f"configs {arguments[0][:40]!r}", ("configs", *arguments), names)
    choices = {"--mode": ("profile", "backward"), "--format": ("export", "pickle"), "--parallel": ("train-toy", "pp")}
    for option, (command, value) in choices.items():
        for wrong in (value, "", "\N{FULLWIDTH DIGIT ONE}", UNPRINTABLE):
            yield _case("flags", f"{option} {wrong!r}", turns.request(option, wrong, of=command), option)
    for command, option in (("export", "--from"), ("export", "--to"), ("shape-check", "--from")):
        for wrong in ("keras", "Diffusers", ""):
            yield _case("flags", f"{option} {wrong!r}", turns.request(option, wrong, of=command), option)


def _values(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """Texts that are no value of their option."""
    words = ("abc", "", " ", "1.5.2", "--", "０x", UNPRINTABLE, "[1]", "null", "1e999x", "²", "½")
    common = {
        "--device": ("tpu", "cuda:", "cpu:0", "cuda:-1", "cuda:99", "cuda:²", f"cuda:{'9' * 400}", "CPU", "meta"),
        "--dtype": ("int8", "float32", "FP32", "fp8", "bf16 "),
        "--seed": (str(1 << 64), str(-(1 << 63) - 1), "9" * 400, "1.5", "1e3", ".inf", "0x1"),
    }
    for option, values in common.items():
        for value in (*values, *words):
            yield _case("flag values", f"{option} {value[:40]!r}", turns.request(f"{option}={value}"), option)
    counts = ("0", "-1", "1.5", "1e3", "nan", "inf", "9" * 400)
    shares = ("0", "-5%", "101%", "nan", "inf", "5%%", "%", "1e999")
    sizes = ("0", "-1", "nan", "inf", "1e400GB", "5 parsecs", "GB", "5XB", "0GB", "0x10", "1_0", "5%", "٥GB")
    above = ("0", "-1", "nan", "inf", "1e999")
    images = ("--images", "1e6")
    own: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
        ("profile", "--repeats"): (counts, ()),
        ("profile", "--max-seconds"): (("-1", "nan", "inf", "-inf", "1e999"), ()),
        ("profile", "--tolerance"): (("-5%", "nan", "inf", "5%%", "%", "1e999"), ()),
        ("estimate", "--memory"): (sizes, ()),
        ("export", "--max-shard-size"): (sizes, ()),
        ("train-toy", "--steps"): (counts, ()),
        ("train-toy", "--seeds"): (counts, ()),
        ("train-toy", "--target"): (shares, ("--seeds", "2")),
        ("flops", "--images"): ((*above, "1.5"), ()),
        ("flops", "--budget"): (above, ()),
        ("flops", "--cards"): (counts, (*images, "--card", "h100")),
        ("flops", "--card"): (("h10", "h100:int8"), images),
        ("flops", "--card-flops"): (above, images),
        ("flops", "--utilization"): (shares, (*images, "--card", "h100")),
    }
    for (command, option), (values, more) in own.items():
        for value in (*values, *draw.sample(words, 4)):
            if value or command != "export":
                shown = "card" if option == "--card" else option
                request = turns.request(*more, f"{option}={value}", of=command)
                yield _case("flag values", f"{option} {value[:40]!r}", request, shown)
    together = {
        ("flops", "--images", "1", "--budget", "1"): "--images and --budget",
        ("flops", *images, "--card", "h100", "--card-flops", "1"): "--card and --card-flops",
        ("flops", "--card", "h100"): "--card",
        ("flops", *images, "--cards", "2"): "--cards",
        ("estimate", "--trace", "t.json"): "--trace",
        ("profile", "-c", FILE, "--trace", "t.json"): "--trace",
        ("train-toy", "--resume", "--seeds", "2"): "--resume",
        ("train-toy", "--target", "50%"): "--target",
        ("train-toy", "--plot", "p.png"): "--plot",
        ("train-toy", "--dtype", "fp16"): "float16",
        ("export", "--raw"): "--raw",
        ("export", "--from", "diffusers"): "--from",
        ("export", "--to", "flux"): "--to",
        ("shape-check", "--weights", "keep.txt", "--from", "stability"): ("--from", "keep.txt"),
    }
    for (command, *options), names in together.items():
        yield _case("flag values", " ".join(options), turns.request(*options, of=command), names)


def _settings(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """Nonsense for --set."""
    bad = {
        "": "--set", "=": "--set", "=4": "--set", "model.depth": "--set model.depth", "model..depth=4": "--set",
        ".=1": "--set", "model.=1": "--set", ".model=1": "--set", "model=": "--set model=", "model=7": "--set model=7",
        "model.depth=": "model.depth", "model.depth=two": "model.depth", "model.depth=1.5": "model.depth",
        "model.depth=true": "model.depth", "model.depth=.inf": "model.depth", "model.depth=[": "--set model.depth=[",
        "model.depth={a: 1": "--set", "model.depth=!!int 4": "--set", "model.depth=*a": "--set",
        "model.depth=&a 4 5": "--set", "model.depth=4\nx: 5": "--set", "model.depth.x=4": "model.depth",
        "model.depth=\x1b[31m": "U+001B", "model.depth=\0"[:-1] + "\x07": "U+0007", "depth=4": "depth",
        "Model.depth=4": "Model", "model.dept=4": "did you mean depth", "run.tokens.tex=4": "run.tokens.tex",
        "model.depth=" + "9" * 5000: "--set model.depth", "model.depth=" + "[" * 5000: "--set",
        "a." * 30_000 + "b=1": "--set", "x" * 60_000 + "=1": "--set", "model.modalities.text=null": "text",
        "model.modalities={}": "model.modalities", "model.norm_eps=.nan": "model.norm_eps",
        "train.learning_rate=-1e-3": "train.learning_rate", "train.ema_decay=2": "train.ema_decay",
        "run.mask.text=nan": "run.mask.text", "run.mask={text: .nan}": "run.mask.text",
        "model.modalities.image.input.kind=voxels": "model.modalities.image.input.kind",
        "model.depth=" + os.fsdecode(b"\xff"): "--set", **{f"model.{word}=4": "unknown key" for word in SCRIPTS},
    }  # fmt: skip
    for text, names in bad.items():
        yield _case("--set", f"--set {text[:40]!r}", turns.request("--set", text), names)
    for text in draw.sample(sorted(bad), 12):
        request = turns.request("--set", "model.depth=2", "--set", text)
        yield _case("--set", f"a second --set {text[:40]!r}", request, bad[text])


def _sweeps(draw: random.Random, turns: Turns) -> Iterator[Case]:
    many = ",".join(map(str, range(1, 20_001)))
    bad: dict[tuple[str, ...], str] = {
        ("",): "--sweep", ("=",): "--sweep", ("model.depth",): "--sweep", ("model.depth=",): "model.depth",
        ("model.depth=1,,2",): "value 2", ("model.depth=1,1",): "twice", ("model.depth=1,two",): "model.depth",
        ("model.depth=1,0",): "--sweep model.depth=0", ("model.depth=1,[",): "--sweep", ("=1,2",): "--sweep",
        ("model..depth=1,2",): "--sweep", ("model.depht=1,2",): "did you mean depth",
        ("model.depth=1,.nan",): "--sweep model.depth=.nan", ("model.depth=1,1.5",): "--sweep model.depth=1.5",
        ("model.depth=1,2", "model.depth=3,4"): "swept twice", ("model.depth=1,2", "model=1,2"): "one holds the other",
        ("run.tokens.sound=1,2",): "run.tokens.sound", (f"model.{SCRIPTS[0]}=1,2",): "unknown key",
        ("model.depth=1,\x1b",): "--sweep", (f"run.batch_size={many}",): "--sweep",
        (f"run.batch_size={many}", f"run.tokens.text={many}"): "--sweep",
        ("a." * 20_000 + "b=1,2",): "--sweep",
    }  # fmt: skip
    for texts, names in bad.items():
        for _ in range(2):
            options = [part for text in texts for part in ("--sweep", text)]
            request = turns.request(*options, of=draw.choice(MEASURING))
            yield _case("--sweep", f"--sweep {texts[0][:40]!r}", request, names)


def _too_large(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """Sizes that no machine holds, for every command; and those that this one does not, where memory is taken."""
    text, image = "model.modalities.text", "model.modalities.image"
    keys = ["model.depth", "model.heads", "model.dim_head", "model.dim_cond", "run.batch_size", f"{text}.dim"]
    keys += [f"{text}.input.{key}" for key in ("vocabulary", "max_length")]
    keys += [f"{image}.dim", f"{image}.input.channels"]
    keys += ["run.tokens.image", "model.register_tokens", "model.timestep.frequencies", "model.feedforward.dim"]
    keys += [f"{image}.input.patch", f"{image}.output.channels", "train.batch_size", "train.steps"]
    for key in keys:
        for value in (HUGE, str((1 << 61) - 1)):
            request = turns.request("--set", f"{key}={value}")
            yield _case("too large", f"{key}={value}", request, key.rpartition(".")[2])
    for changes in (
        ("model.depth=1000000",),
        ("model.depth=1000000000",),
        ("model.single_stream={depth: 1000000000}",),
        ("model.feedforward.mult=1e300",),
        (f"{text}.dim=4000000000", f"{image}.dim=4000000000", "model.dim_cond=4000000000"),
        (f"{text}.input={{kind: tokens, vocabulary: 4000000000, max_length: 4000000000}}", f"{text}.dim=2000000000"),
        ("model.heads=4000000000", "model.dim_head=4000000000"),
        (f"{image}.input={{kind: patches, channels: 3, patch: 4000000000}}", "model.discard=[]"),
        ("model.attention={kind: adaptive, num_adaptive_weights: 4000000000}", f"{text}.dim=4000000000"),
    ):
        for _ in range(3):
            request = turns.request(*(part for change in changes for part in ("--set", change)))
            yield _case("too large", " ".join(changes)[:60], request, ("base", "model.", "any machine"))
    for changes in (
        (f"{text}.input.vocabulary=4000000000", f"{text}.dim=4096"),
        (f"{text}.dim=1000000", f"{image}.dim=1000000"),
        ("model.dim_cond=1000000000",),
        ("model.feedforward.dim=4000000000",),
    ):
        for command in ("profile", "train-toy", "export"):
            options = (part for change in changes for part in ("--set", change))
            request = turns.request(*options, of=command)
            yield _case("too large", f"for {command}: {changes[0]}", request, ("memory", "disk", "base"))
    for key in ("run.batch_size=4000000000", "run.batch_size=1000000000"):
        yield _case("too large", key, turns.request("--set", key, of="profile"), "base")
    yield _case("too large", "a batch", turns.request("--set", "train.batch_size=4000000000", of="train-toy"), "base")
    packed = ("--set", "model.varlen=true", "--set", "run.batch_size=4000000000")
    for command in MEASURING:
        yield _case("too large", "a packed batch", turns.request(*packed, of=command), ("base", "run."))


# ----------------------------------------------------------------------------------------------------- other files


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
            yield _case("weights", f"{name}, {command}", request(command), "odd", files={"odd": content})
    for name, prepare in _odd_files().items():
        for command in ("shape-check", "export"):
            yield _case("weights", f"{name}, {command}", request(command), "odd", prepare=prepare)
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
            yield _case("weights", f"an index, {name}, {command}", request(command), "odd", files={index: content})
    for layout in ("diffusers", "stability", "flux", "lucidrains"):
        options = ("--weights", "keep.txt", "--from", layout)
        yield _case("weights", f"of {layout}", turns.request(*options, of="export"), (layout, "keep.txt"))


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
            yield _case("places", f"{option} {path[:40]!r}", request, option, names, prepare=_circle)
    for command, option, suffix in options:
        for name, prepare in {"a folder": Path.mkdir, "a FIFO": os.mkfifo}.items():
            request = turns.request(option, f"odd{suffix}", of=command)
            place = f"odd{suffix}"
            yield _case("places", f"{option} {name}", request, option, prepare=_made(prepare, place))
        yield _case("places", f"{option} ''", turns.request(option, "", of=command), option)
    for command in COMMANDS:
        for path in ("r.txt", "report", "r.json.gz", ".json", f"r.{SCRIPTS[0]}"):
            yield _case("places", f"--report {path}", turns.request("--report", path, of=command), "--report")
    out = ("--out", "keep.txt"), ("--out", "old"), ("--out", "old", "--max-shard-size", "1GB")
    for request in (*out, ("--out", "old", "--max-shard-size", "1GB", "--force"), ("--out", "/dev/zero")):
        yield _case("places", " ".join(request), turns.request(*request, of="export"), "--out")
    for path in ("old", "keep.txt", "keep.txt/x", "/proc/x", "/dev/null", LONG, "circle", "/sys/x/y"):
        yield _case("places", f"--run-dir {path}", turns.request("--run-dir", path, of="train-toy"), "--run-dir",
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
        yield _case("runs", f"resume: {name}", request, "odd", files=files)
        if "state" in name:
            request = turns.request("--weights", "odd", of="export")
            yield _case("runs", f"weights of a run: {name}", request, "odd", files=files)
    for name, prepare in _odd_files().items():
        request = turns.request("--run-dir", "odd", "--resume", of="train-toy")
        yield _case("runs", f"resume: {name}", request, "odd", prepare=prepare)
    yield _case("runs", "resume of nothing", ("train-toy", "-c", FILE, "--resume"), "--run-dir")


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
        yield _case("baselines", name, request, "--baseline", files={"odd": content})
    for name, prepare in _odd_files().items():
        request = turns.request("--baseline", "odd", of="profile")
        yield _case("baselines", name, request, "--baseline odd", prepare=prepare)


def _processes(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """Some of each command again, each as a process of its own."""
    for command in COMMANDS:
        yield _case("processes", f"{command}, no file", turns.request(config="odd", of=command), "odd", real=True)
        request = turns.request("--set", "model.depth=two", of=command)
        yield _case("processes", f"{command}, a wrong type", request, "--set model.depth=two", real=True)
    yield _case("processes", "configs", ("configs", "nothing"), "nothing", real=True)
    yield _case("processes", "configs, a flag", ("configs", "--config", FILE), "--config", real=True)
    yield _case("processes", "schema", ("schema", "--document", "nothing"), "--document", real=True)
    yield _case("processes", "schema, a flag", ("schema", "--config", FILE), "--config", real=True)
    yield _case("processes", "zeros", turns.request(config="-"), "<stdin>", stdin="/dev/zero", real=True)
    yield _case("processes", "closed", turns.request(config="-"), "<stdin>", stdin=CLOSED, real=True)
