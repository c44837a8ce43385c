"""torch.compile: whether this machine has what it needs, and after how many calls it pays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from mmdit_cli.errors import UserError
from mmdit_cli.output.units import MISSING, seconds

COMPILERS = ("g++", "clang++", "c++")  # that torch looks for, after CXX
LIMIT = 256  # variants of one function that torch.compile keeps; beyond them it would go on uncompiled, silently


@dataclass(frozen=True)
class CompileGain:
    """Compiled calls beside the same ones as they are: medians, and the `seconds` that compiling took beyond a call.

    `break_even`: the calls after which it has paid; None: never, for a call is no faster.
    """

    seconds: float
    eager_ms: float
    compiled_ms: float
    break_even: int | None


def compiled(model: nn.Module) -> Any:
    """The model through torch.compile, for the sizes of each call that it is given, as if it were alone in the
    process."""
    settings: Any = torch._dynamo.config
    newer = hasattr(settings, "recompile_limit")  # torch 2.6 has the older name
    for name in ("recompile_limit", "accumulated_recompile_limit") if newer else ("cache_size_limit",):
        setattr(settings, name, LIMIT)
    return torch.compile(model, dynamic=False)


def compile_gain(first: float, compiled: Sequence[float], eager: Sequence[float]) -> CompileGain:
    """From the seconds of the first compiled call, of those after it, and of calls that are not compiled."""
    after, before = median(compiled), median(eager)
    spent, saved = max(0.0, first - after), before - after
    return CompileGain(spent, before * 1e3, after * 1e3, int(spent / saved) + 1 if saved > 0 else None)


def pays_after(gain: CompileGain | None, of: str) -> str:
    """In words, such as `1,240 calls`."""
    if gain is None:
        return MISSING
    return "never" if gain.break_even is None else f"{gain.break_even:,} {of}"


def in_words(gain: CompileGain) -> str:
    """Of passes of a training step."""
    before, after = seconds(gain.eager_ms / 1e3), seconds(gain.compiled_ms / 1e3)
    pays = "never pays" if gain.break_even is None else f"pays after {pays_after(gain, 'steps')}"
    return f"compiled in {seconds(gain.seconds)}; a pass takes {after} in place of {before}, which {pays}"


def check_compiler(device: torch.device, option: str) -> None:
    """Raises UserError where torch.compile would find no C++ compiler on the CPU."""
    named = os.environ.get("CXX")
    if device.type == "cpu" and not any(map(shutil.which, [named] if named else COMPILERS)):
        found = f"CXX={named} is none" if named else f"there is neither of {', '.join(COMPILERS)}"
        raise UserError(
            f"{option} needs a C++ compiler on the CPU, and {found}; install one (Debian: apt install g++) or set CXX"
        )
