"""`--sweep KEY=V1,V2`: the grid of configs that several values of several keys span."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdit_cli.errors import UserError
from mmdit_cli.output.tables import Column

if TYPE_CHECKING:
    from mmdit_cli.request.request import Request
    from mmdit_cli.request.tool_config import ToolConfig

MAX_POINTS = 1000  # of a grid
LONGEST_KEY = 300  # characters

Point = dict[str, Any]  # a value for each swept key, in the order of the command line
BRACKETS = {"[": "]", "{": "}"}


@dataclass(frozen=True)
class Axis:
    """A swept key: its values as data, and as they were written."""

    key: str
    values: tuple[Any, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class PointConfig:
    """One config at one point of the grid; `point` is empty where nothing is swept."""

    config: ToolConfig
    point: Point


def load_grid(request: Request, sweeps: Sequence[str] | None) -> list[PointConfig]:
    """Every config of the request at every point of the grid, config by config, the last key's values changing first.

    Raises:
        UserError: a sweep is malformed; the message names the key and the value.
        ConfigError: a config is wrong, or becomes so at a point; the message names `--sweep KEY=VALUE`.
    """
    axes = parse_sweeps(sweeps or ())
    rows = list(itertools.product(*(zip(axis.values, axis.texts, strict=True) for axis in axes)))
    points = [{axis.key: value for axis, (value, _) in zip(axes, row, strict=True)} for row in rows]
    texts = [[f"{axis.key}={text}" for axis, (_, text) in zip(axes, row, strict=True)] for row in rows]
    loaded = request.load_points(texts)
    return [PointConfig(config, point) for each in loaded for config, point in zip(each, points, strict=True)]


def parse_sweeps(sweeps: Sequence[str]) -> list[Axis]:
    """The axes of a grid from `KEY=V1,V2` texts, or `KEY=6..12` for whole numbers. Values are read as `--set` reads
    them; a comma inside brackets or quotes does not part two values.

    Raises:
        UserError: not `KEY=V1,V2`, an empty or repeated value, a key that is swept twice or lies inside another, more
            than `MAX_POINTS` points.
    """
    axes: list[Axis] = []
    for sweep in sweeps:
        axis = _parse_axis(sweep)
        for other in axes:
            parts = zip(axis.key.split("."), other.key.split("."), strict=False)
            if all(ours == theirs or "*" in (ours, theirs) for ours, theirs in parts):
                problem = "is swept twice" if axis.key == other.key else f"and {other.key}: one holds the other"
                raise UserError(f"--sweep {axis.key} {problem}; give all its values in one --sweep")
        axes.append(axis)
        if (points := math.prod(len(axis.values) for axis in axes)) > MAX_POINTS:
            raise UserError(f"--sweep {axis.key}: makes {points} points; a grid has at most {MAX_POINTS}")
    return axes


def short_names(points: Sequence[Point]) -> dict[str, str]:
    """The swept keys as tables and pictures name them: as many of their last parts as tell them apart."""
    keys = list(points[0]) if points else []
    for count in range(1, 1 + max((key.count(".") + 1 for key in keys), default=0)):
        names = {key: ".".join(key.split(".")[-count:]) for key in keys}
        if len(set(names.values())) == len(keys):
            return names
    return {key: key for key in keys}


def point_columns(results: Sequence[Any]) -> list[Column]:
    """What tells results at points of a grid apart: the config where there are several, and each swept value."""
    columns = [Column("config", lambda r: r.config)] if len({result.config for result in results}) > 1 else []
    names = short_names([result.point for result in results])
    columns += [Column(name, lambda r, key=key: value_text(r.point[key])) for key, name in names.items()]  # type: ignore
    return [columns[0]._replace(kind="text"), *columns[1:]]


def value_text(value: Any) -> str:
    """A swept value as YAML says it."""
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parse_axis(sweep: str) -> Axis:
    from mmdit.config.yaml_document import ConfigError, one_line, parse

    key, equals, text = sweep.partition("=")
    key, label = key.strip(), f"--sweep {one_line(sweep, 60)}"
    if not equals or "" in key.split(".") or len(key) > LONGEST_KEY:
        raise UserError(f"{label}: expected KEY=V1,V2 with a dotted key, as in --sweep run.batch_size=1,4")
    texts = [value for part in _split(text) for value in _counted(part.strip())]
    if len(texts) > MAX_POINTS:
        raise UserError(f"{label}: gives {key} {len(texts)} values; a sweep has at most {MAX_POINTS} points")
    values: list[Any] = []
    for place, part in enumerate(texts, start=1):
        if not part:
            raise UserError(f"{label}: value {place} of {key} is empty; write null for none")
        try:
            value = parse(part, f"--sweep {key}={one_line(part, 60)}", lines=False).data
        except ConfigError as error:
            raise UserError(str(error)) from None
        if any(value == other and type(value) is type(other) for other in values):
            raise UserError(f"{label}: {key} takes the value {part} twice")
        values.append(value)
    return Axis(key, tuple(values), tuple(texts))


def _counted(part: str) -> Sequence[str]:
    """Each whole number of `6..12`, and of more than a grid holds as many as are refused; another text as it is."""
    match = re.fullmatch(r"(-?\d{1,18})\.\.(-?\d{1,18})", part, re.ASCII)
    first, last = (int(match[1]), int(match[2])) if match else (1, 0)
    return [str(value) for value in range(first, min(last, first + MAX_POINTS) + 1)] or [part]


def _split(text: str) -> list[str]:
    """The text cut at its commas, but for those in brackets or quotes."""
    parts, closing, quote = [""], [], ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'" and (parts[-1].rstrip()[-1:] or ",") in "[{:,":
            quote = sign
        elif sign in BRACKETS:
            closing.append(BRACKETS[sign])
        elif closing and sign == closing[-1]:
            closing.pop()
        if sign == "," and not closing and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return parts
