"""Requests that are wrong by construction: what each one is, and the right config that is damaged for them.

The config that is damaged is a right one, which every command takes as it is (a test says so), so what is wrong with a
request is what was done to it, and the place that the message must name is known.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "base.yaml"
# what each command needs beside --config, so that nothing else would be wrong with the request
COMMANDS: dict[str, tuple[str, ...]] = {
    "profile": ("profile", "--repeats", "1", "--max-seconds", "0.01"),
    "estimate": ("profile", "--estimate"),
    "flops": ("flops",),
    "shape-check": ("shape-check",),
    "train-toy": ("train-toy", "--steps", "1", "--run-dir", "run"),
    "export": ("export", "--out", "out.safetensors"),
}
BASE: dict[str, Any] = {
    "name": "base",
    "model": {
        "variant": "generalized",
        "depth": 1,
        "modalities": {
            "text": {"dim": 16, "input": {"kind": "tokens", "vocabulary": 64, "max_length": 24}},
            "image": {
                "dim": 16,
                "input": {"kind": "patches", "channels": 3, "patch": 4, "bias": True, "max_size": 4},
                "output": {"kind": "patches", "channels": 3, "norm": True, "bias": True},
            },
        },
        "dim_cond": 16,
        "heads": 2,
        "dim_head": 8,
        "qk_rmsnorm": True,
        "attention": {"kind": "standard", "num_adaptive_weights": 1, "gating": "token", "bias": False, "dual": []},
        "residual": {"kind": "plain", "streams": 1, "dynamic": True},
        "feedforward": {"mult": 2.5, "kind": "gelu", "bias": True},
        "modulation": {"bias": True, "shared": False},
        "adaln": "zero",
        "norm_eps": 1e-6,
        "register_tokens": 0,
        "discard": ["text"],
        "timestep": {"frequencies": 16, "scale": 1000.0, "bias": True},
        "checkpoint_activations": False,
        "varlen": False,
    },
    "run": {"batch_size": 2, "tokens": {"text": 24, "image": 16}, "mask": {"text": 0.5}},
    "train": {
        "data": "world",
        "steps": 1,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "warmup_steps": 1,
        "ema_decay": 0.9,
        "caption_dropout": 0.1,
        "timesteps": {"kind": "logit_normal", "std": 1.5, "per_modality": False},
        "sampler": {"steps": 2, "kind": "euler", "guidance": 2.5},
        "evaluation_samples": 4,
        "checkpoint_every": 1,
    },
}
SCRIPTS = ("глубина", "深さ", "عمق", "βάθος", "गहराई", "깊이", "עומק", "ความลึก", "🙂", "ﬁ", "dеpth", "１")
UNPRINTABLE, LONG = "a\x1b[31mb", "x" * 300


@dataclass(frozen=True)
class Case:
    """A wrong request. `names`: what its message must hold, one of each inner tuple's texts.

    `files` are written and then `prepare` is called, in the folder that it runs in; `stdin` is a path there, or as the
    process module says. `real`: run as a process of its own.
    """

    group: str
    name: str
    arguments: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    stdin: str = "/dev/null"
    real: bool = False


def case(group: str, name: str, arguments: tuple[str, ...], *names: str | tuple[str, ...], **more: Any) -> Case:
    """A case that must name each of `names`, or one of those of a tuple."""
    return Case(group, name, arguments, tuple((each,) if isinstance(each, str) else each for each in names), **more)


class Turns:
    """Gives the commands in turns, so that each kind of damage meets all of them."""

    def __init__(self) -> None:
        self.commands = itertools.cycle(COMMANDS)

    def request(self, *more: str, config: str = FILE, of: str | None = None) -> tuple[str, ...]:
        command, *options = COMMANDS[of or next(self.commands)]
        return (command, "--config", config, *options, *more)


@dataclass
class Text:
    """A config as YAML in block style, and the line that each key stands in."""

    lines: list[str]
    places: dict[str, int]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Text:
        text = cls([], {})
        text._add(data, "", 0)
        return text

    def _add(self, data: Mapping[str, Any], prefix: str, depth: int) -> None:
        for key, value in data.items():
            self.places[f"{prefix}{key}"] = len(self.lines) + 1
            written = isinstance(value, dict) and value
            self.lines.append(f"{'  ' * depth}{key}:" + ("" if written else f" {scalar(value)}"))
            if written:
                self._add(value, f"{prefix}{key}.", depth + 1)

    def encode(self) -> bytes:
        return ("\n".join(self.lines) + "\n").encode()


def scalar(value: Any) -> str:
    """YAML of a value; a text that YAML reads as a number that is not finite is left plain."""
    return value if value in (".nan", ".inf", "-.inf", "1e999") else json.dumps(value, ensure_ascii=False)


def base(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The right config, with values at dotted keys changed."""
    data = copy.deepcopy(BASE)
    for key, value in (changes or {}).items():
        *way, last = key.split(".")
        here = data
        for part in way:
            here = here.setdefault(part, {})
        here[last] = value
    return data


def leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, sections as well."""
    for key, value in data.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
