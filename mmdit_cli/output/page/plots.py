"""What the plots of a page show, as plain data; the page's script draws them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mmdit_cli.output.console import printable


@dataclass(frozen=True)
class Axis:
    """`unit`: B, s, FLOP/s, ... in SI steps; % of shares; none."""

    label: str
    unit: str = ""
    log: bool = False


@dataclass(frozen=True)
class Series:
    """Points `(x, y)`, each with a text of its own where `texts` are given; `band`: `(x, low, high)`.

    `colour`: the number of its colour, which series that belong together share; -1: ink. `sizes`: shares of the largest
    mark. `quiet`: drawn faintly, and named by none.
    """

    name: str
    points: list[tuple[float, float]]
    texts: list[str] = field(default_factory=list)
    band: list[tuple[float, float, float]] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    colour: int = 0
    line: bool = True
    marks: bool = True
    quiet: bool = False


@dataclass(frozen=True)
class Curves:
    """Series over two axes."""

    title: str
    about: str
    x: Axis
    y: Axis
    series: list[Series]
    kind: Literal["curves"] = "curves"


@dataclass(frozen=True)
class Part:
    """A part of a bar."""

    name: str
    value: float
    text: str


@dataclass(frozen=True)
class Bars:
    """A bar of parts for each row; parts of one name have one colour."""

    title: str
    about: str
    unit: str
    rows: list[tuple[str, list[Part]]]
    kind: Literal["bars"] = "bars"


Plot = Curves | Bars


def as_json(plot: Plot) -> Any:
    """What the script is given, in which no name moves a cursor or turns text around."""
    return _spelled(asdict(plot))


def _spelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _spelled(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelled(each) for each in value]
    return printable(value) if isinstance(value, str) else value
