"""Wrong requests whose config is right: options, their values, --set and --sweep, and sizes that no machine holds."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

from tests.robustness.cases import COMMANDS, FILE, LONG, SCRIPTS, UNPRINTABLE, Case, Turns, case
from tests.robustness.process import CLOSED

HUGE = str(1 << 62)
MEASURING = ("profile", "estimate", "flops")


def flag_cases(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """All of them."""
    for kind in (_usage, _values, _settings, _sweeps, _too_large, _processes):
        yield from kind(draw, turns)


def _usage(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """What Typer itself refuses."""
    yield case("flags", "no command", ("nothing",), "nothing")
    yield case("flags", "a command's typo", ("profil", "-c", FILE), "Did you mean 'profile'")
    for word in (*SCRIPTS[:4], UNPRINTABLE, ""):
        shown = word.encode("unicode_escape").decode() if word == UNPRINTABLE else word
        yield case("flags", f"command {word!r}", (word, "-c", FILE), ("command", shown))
        yield case("flags", f"option {word!r}", turns.request(f"--{word or '='}"), (f"--{shown}", "argument", "--="))
        yield case("flags", f"argument {word!r}", turns.request(word or " "), shown or "argument")
    for command in COMMANDS:
        yield case("flags", "no config", COMMANDS[command], "--config")
        yield case("flags", "no value", turns.request("--device", of=command), "--device")
        yield case("flags", "an unknown flag", turns.request("--wat", of=command), "--wat")
        yield case("flags", "a flag's typo", turns.request("--sede", "1", of=command), "--sede")
        yield case("flags", "a flag with a value", turns.request("--json=yes", of=command), "--json")
    for command, option in (("flops", "--mode"), ("shape-check", "--sweep"), ("export", "--repeats")):
        yield case("flags", "another command's", turns.request(option, "1", of=command), option)
    yield case("flags", "no --out", ("export", "-c", FILE), "--out")
    yield case("flags", "schema's document", ("schema", "--document", "nothing"), "--document")
    yield case("flags", "schema's argument", ("schema", "extra"), "extra")
    yield case("flags", "schema's flag", ("schema", "--config", FILE), "--config")
    for arguments, names in {
        ("nothing",): "nothing", ("sd3-mediun",): "did you mean sd3-medium", ("sd3-medium", "--json"): "sd3-medium",
        ("../README",): "README", ("/etc/passwd",): "/etc/passwd", ("a", "b"): "(b)", ("--config", FILE): "--config",
        ("--resolved",): "--resolved", ("odd", "--resolved"): "odd", (FILE, "--resolved", "--json"): FILE,
        ("--diff", "odd", FILE): "odd", ("--diff", FILE): "--diff", (FILE, "--diff", FILE, FILE): "--diff",
        (SCRIPTS[1],): SCRIPTS[1], (UNPRINTABLE,): "\\x1b[31m", (LONG,): "xxx", ("--report", "nowhere/r.md"): "nowhere",
    }.items():  # fmt: skip
        yield case("flags", f"configs {arguments[0][:40]!r}", ("configs", *arguments), names)
    choices = {"--mode": ("profile", "backward"), "--format": ("export", "pickle"), "--parallel": ("train-toy", "pp")}
    for option, (command, value) in choices.items():
        for wrong in (value, "", "\N{FULLWIDTH DIGIT ONE}", UNPRINTABLE):
            yield case("flags", f"{option} {wrong!r}", turns.request(option, wrong, of=command), option)
    for command, option in (("export", "--from"), ("export", "--to"), ("shape-check", "--from")):
        for wrong in ("keras", "Diffusers", ""):
            yield case("flags", f"{option} {wrong!r}", turns.request(option, wrong, of=command), option)


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
            yield case("flag values", f"{option} {value[:40]!r}", turns.request(f"{option}={value}"), option)
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
        ("train-toy", "--max-seeds"): ((*counts, "2"), ("--seeds", "auto")),
        ("train-toy", "--jobs"): (counts, ("--seeds", "2")),
        ("train-toy", "--by"): (("flop", "FLOPs", "time"), ("--seeds", "2")),
        ("train-toy", "--tune"): (("train.steps", "train.steps=", "train.rate=1", "=1"), ()),
        ("train-toy", "--tune-seeds"): (counts, ("--tune", "train.learning_rate=1e-3,1e-2")),
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
                yield case("flag values", f"{option} {value[:40]!r}", request, shown)
    together = {
        ("flops", "--images", "1", "--budget", "1"): "--images and --budget",
        ("flops", *images, "--card", "h100", "--card-flops", "1"): "--card and --card-flops",
        ("flops", "--card", "h100"): "--card",
        ("flops", *images, "--cards", "2"): "--cards",
        ("estimate", "--trace", "t.json"): "--trace",
        ("profile", "-c", FILE, "--trace", "t.json"): "--trace",
        ("train-toy", "--resume", "--seeds", "2"): "--resume",
        ("train-toy", "--target", "50%"): "--target",
        ("train-toy", "--seeds", "auto"): "--seeds",
        ("train-toy", "--seeds", "2", "--max-seeds", "4"): "--max-seeds",
        ("train-toy", "--jobs", "2"): "--jobs",
        ("train-toy", "--by", "flops"): "--by",
        ("train-toy", "--seeds", "2", "--tune-seeds", "2"): "--tune-seeds",
        ("train-toy", "--plot", "p.png"): "--plot",
        ("train-toy", "--dtype", "fp16"): "float16",
        ("export", "--raw"): "--raw",
        ("export", "--from", "diffusers"): "--from",
        ("export", "--to", "flux"): "--to",
        ("shape-check", "--weights", "keep.txt", "--from", "stability"): ("--from", "keep.txt"),
    }
    for (command, *options), names in together.items():
        yield case("flag values", " ".join(options), turns.request(*options, of=command), names)


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
        "model.modalitis.*.dim=4": "finds no key", "model.modalities[*].dim=4": "--set", "*=1": "--set *=1",
        "**=1": "--set", "extends=sd3-medium": "extends",
        "model.depth=" + os.fsdecode(b"\xff"): "--set", **{f"model.{word}=4": "unknown key" for word in SCRIPTS},
    }  # fmt: skip
    for text, names in bad.items():
        yield case("--set", f"--set {text[:40]!r}", turns.request("--set", text), names)
    for text in draw.sample(sorted(bad), 12):
        request = turns.request("--set", "model.depth=2", "--set", text)
        yield case("--set", f"a second --set {text[:40]!r}", request, bad[text])


def _sweeps(draw: random.Random, turns: Turns) -> Iterator[Case]:
    many = ",".join(map(str, range(1, 20_001)))
    bad: dict[tuple[str, ...], str] = {
        ("",): "--sweep", ("=",): "--sweep", ("model.depth",): "--sweep", ("model.depth=",): "model.depth",
        ("model.depth=1,,2",): "value 2", ("model.depth=1,1",): "twice", ("model.depth=one,two",): "model.depth",
        ("model.depth=0,-1",): "--sweep model.depth=0", ("model.depth=1,[",): "--sweep", ("=1,2",): "--sweep",
        ("model..depth=1,2",): "--sweep", ("model.depht=1,2",): "did you mean depth",
        ("model.depth=.nan",): "--sweep model.depth=.nan", ("model.depth=1.5,2.5",): "--sweep model.depth=1.5",
        ("model.depth=1,2", "model.depth=3,4"): "swept twice", ("model.depth=1,2", "model=1,2"): "one holds the other",
        ("run.tokens.sound=1,2",): "run.tokens.sound", (f"model.{SCRIPTS[0]}=1,2",): "unknown key",
        ("run.tokens.*=1,2", "run.tokens.text=1,2"): "one holds the other", ("run.tok.*=1,2",): "finds no key",
        ("model.depth=1,\x1b",): "--sweep", (f"run.batch_size={many}",): "--sweep",
        (f"run.batch_size={many}", f"run.tokens.text={many}"): "--sweep",
        ("a." * 20_000 + "b=1,2",): "--sweep", ("run.tokens.image=1,024",): "is 1,024 one value?",
    }  # fmt: skip
    for texts, names in bad.items():
        for _ in range(2):
            options = [part for text in texts for part in ("--sweep", text)]
            request = turns.request(*options, of=draw.choice(MEASURING))
            yield case("--sweep", f"--sweep {texts[0][:40]!r}", request, names)


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
            yield case("too large", f"{key}={value}", request, key.rpartition(".")[2])
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
            yield case("too large", " ".join(changes)[:60], request, ("base", "model.", "any machine"))
    for changes in (
        (f"{text}.input.vocabulary=4000000000", f"{text}.dim=4096"),
        (f"{text}.dim=1000000", f"{image}.dim=1000000"),
        ("model.dim_cond=1000000000",),
        ("model.feedforward.dim=4000000000",),
    ):
        for command in ("profile", "train-toy", "export"):
            options = (part for change in changes for part in ("--set", change))
            request = turns.request(*options, of=command)
            yield case("too large", f"for {command}: {changes[0]}", request, ("memory", "disk", "base"))
    for key in ("run.batch_size=4000000000", "run.batch_size=1000000000"):
        yield case("too large", key, turns.request("--set", key, of="profile"), "base")
    yield case("too large", "a batch", turns.request("--set", "train.batch_size=4000000000", of="train-toy"), "base")
    packed = ("--set", "model.varlen=true", "--set", "run.batch_size=4000000000")
    for command in MEASURING:
        yield case("too large", "a packed batch", turns.request(*packed, of=command), ("base", "run."))


def _processes(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """Some of each command again, each as a process of its own."""
    for command in COMMANDS:
        yield case("processes", f"{command}, no file", turns.request(config="odd", of=command), "odd", real=True)
        request = turns.request("--set", "model.depth=two", of=command)
        yield case("processes", f"{command}, a wrong type", request, "--set model.depth=two", real=True)
    yield case("processes", "configs", ("configs", "nothing"), "nothing", real=True)
    yield case("processes", "configs, a flag", ("configs", "--config", FILE), "--config", real=True)
    yield case("processes", "schema", ("schema", "--document", "nothing"), "--document", real=True)
    yield case("processes", "schema, a flag", ("schema", "--config", FILE), "--config", real=True)
    yield case("processes", "zeros", turns.request(config="-"), "<stdin>", stdin="/dev/zero", real=True)
    yield case("processes", "closed", turns.request(config="-"), "<stdin>", stdin=CLOSED, real=True)
