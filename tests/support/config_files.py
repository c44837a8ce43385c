"""A schema of its own for the config loader, a file that fits it, and how a wrong one is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from mmdit.config.file import ConfigError, load_config
from mmdit.options import OptionError, Options, option
from mmdit.options.fields import Count, Flag, Number, Text, Whole


@dataclass(frozen=True, kw_only=True)
class Round(Options):
    kind: Literal["round"] = "round"
    radius: Number = option(gt=0)


@dataclass(frozen=True, kw_only=True)
class Square(Options):
    kind: Literal["square"] = "square"
    side: Whole = option(1, gt=0)


@dataclass(frozen=True, kw_only=True)
class Layer(Options):
    width: Whole = option(gt=0)
    shape: Annotated[Round | Square, Field(discriminator="kind")] | None = option(None)
    mode: Literal["fast", "slow"] | None = option("fast")
    even: Whole = option(2, multiple_of=2)


@dataclass(frozen=True, kw_only=True)
class Net(Options):
    depth: Whole = option(gt=0)
    layers: dict[Text, Layer] = option({"z": Layer(width=1)}, min_length=1)
    scale: Number = option(1)
    on: Flag = option(False)
    label: Text = option("net", min_length=1)
    registers: Count | dict[Text, Count] = option(0)
    picks: tuple[Count, ...] = option(())

    def check(self) -> Iterator[OptionError]:
        if self.label != self.label.lower():
            yield OptionError(("label",), f"a label is lower case, not {self.label!r}")
        for index, pick in enumerate(self.picks):
            if pick >= self.depth:
                yield OptionError(("picks", index), f"block {pick} does not exist")
        if self.scale == 0:
            yield OptionError(("layers", "a", "even"), "scale 0 needs an even width")


@dataclass(frozen=True, kw_only=True)
class WholeFile(Options):
    net: Net = option()
    note: Any = option(None)


GOOD = """\
net:
  depth: 4
  layers:
    a: {width: 8}
    b:
      width: 2
      shape: {kind: round, radius: 1e-6}
note: 1
"""


def load(text: str | bytes, *overrides: str) -> WholeFile:
    Path("c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config("c.yaml", WholeFile, overrides=overrides)


def refusal(text: str | bytes, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(text, *overrides)
    return str(error.value)
