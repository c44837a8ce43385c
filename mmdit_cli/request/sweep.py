"""`--sweep KEY=V1,V2` (and `--tune`): the grid of configs that several values of several keys span."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mmdit_cli.errors import UserError
from mmdit_cli.output.tables import Column

if TYPE_CHECKING:
    from mmdit_cli.request.request import Request
    from mmdit_cli.request.tool_config import ToolConfig

MAX_POINTS = 1000  # of a grid
LONGEST_KEY = 300  # characters
NAMED = 10  # points left out, under the tables

Result = TypeVar("Result")
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


@dataclass(frozen=True)
class LeftOut:
    """A config at a point of the grid where it can't be, and why."""

    config: str
    point: Point
    reason: str


def load_grid(request: Request, sweeps: Sequence[str] | None) -> list[PointConfig]:
    """Every config of the request at every point of the grid, config by config, the last key's values changing first.
    Points at which a config is wrong are left out, and noted in the request.

    Raises:
        UserError: a sweep is malformed; the message names the key and the value.
        ConfigError: a config is wrong at every point, or a swept value is none that its key can have; the message names
            `--sweep KEY=VALUE` where that is why.
    """
    return [point for grid in load_grids(request, sweeps) for point in grid]


def load_grids(request: Request, sweeps: Sequence[str] | None, option: str = "--sweep") -> list[list[PointConfig]]:
    """The same for each config apart, of an option that is written as `--sweep` is."""
    axes = parse_sweeps(sweeps or (), option)
    rows = list(itertools.product(*(zip(axis.values, axis.texts, strict=True) for axis in axes)))
    points = [{axis.key: value for axis, (value, _) in zip(axes, row, strict=True)} for row in rows]
    texts = [[f"{axis.key}={text}" for axis, (_, text) in zip(axes, row, strict=True)] for row in rows]
    grids: list[list[PointConfig]] = []
    for name, loaded in zip(request.configs, request.load_points(texts, option), strict=True):
        tried = list(zip(loaded, points, strict=True))
        wrong = [(problem, point) for problem, point in tried if isinstance(problem, ValueError)]
        if len(wrong) == len(tried):
            raise wrong[0][0]
        for problem, _ in wrong:
            if any(source.startswith(f"{option} ") for source in problem.mistyped):  # a slip, at whatever point
                raise problem
        _leave_out(request, [LeftOut(name, point, str(problem)) for problem, point in wrong])
        grids.append([PointConfig(config, point) for config, point in tried if not isinstance(config, ValueError)])
    return grids


def over_grid(
    request: Request, grid: Sequence[PointConfig], work: Callable[[PointConfig], Result]
) -> list[tuple[PointConfig, Result]]:
    """What is made of every point. In a sweep those of which nothing can be made are left out, and noted.

    Raises:
        UserError, ValueError: nothing can be made of any point, or of a config that is not swept.
    """
    done: list[tuple[PointConfig, Result]] = []
    problems: list[tuple[PointConfig, Exception]] = []
    for each in grid:
        try:
            done.append((each, work(each)))
        except (UserError, ValueError) as problem:
            if not each.point:
                raise
            problems.append((each, problem))
    if not done and problems:
        raise problems[0][1]
    _leave_out(request, [LeftOut(each.config.name, each.point, str(problem)) for each, problem in problems])
    return done


def in_lines(
    results: Sequence[Any], places: Sequence[float], is_varied: Callable[[str], bool]
) -> dict[str, list[tuple[float, Any]]]:
    """Results of a sweep for a picture, each beside its place, by line: of one config, and alike in every key but those
    that are varied. A line is named by these, and by its config where there are several."""
    names = short_names([result.point for result in results])
    several = len({result.config for result in results}) > 1
    lines: dict[str, list[tuple[float, Any]]] = {}
    for place, result in sorted(zip(places, results, strict=True), key=lambda pair: pair[0]):
        others = [f"{names[key]} {value_text(value)}" for key, value in result.point.items() if not is_varied(key)]
        lines.setdefault(", ".join([result.config] * several + others), []).append((place, result))
    return lines


def _leave_out(request: Request, points: Sequence[LeftOut]) -> None:
    """Note them for the foot of the tables and for the document."""
    if not points:
        return
    request.beside.setdefault("left_out", []).extend(points)
    for each in points[:NAMED]:
        where = ", ".join(f"{key}={value_text(value)}" for key, value in each.point.items())
        request.footnotes.append(f"Left out: {each.config} with {where}: {'; '.join(each.reason.splitlines())}")
    if (more := len(points) - NAMED) > 0:
        request.footnotes.append(f"Left out: {more} more points of {points[0].config}, which --json names.")


def parse_sweeps(sweeps: Sequence[str], option: str = "--sweep") -> list[Axis]:
    """The axes of a grid from `KEY=V1,V2` texts, or `KEY=6..12` for whole numbers. Values are read as `--set` reads
    them; a comma inside brackets or quotes does not part two values.

    Raises:
        UserError: not `KEY=V1,V2`, an empty or repeated value, a key that is swept twice or lies inside another, more
            than `MAX_POINTS` points.
    """
    axes: list[Axis] = []
    for sweep in sweeps:
        axis = _parse_axis(sweep, option)
        for other in axes:
            parts = zip(axis.key.split("."), other.key.split("."), strict=False)
            if all(ours == theirs or "*" in (ours, theirs) for ours, theirs in parts):
                problem = "is swept twice" if axis.key == other.key else f"and {other.key}: one holds the other"
                raise UserError(f"{option} {axis.key} {problem}; give all its values in one {option}")
        axes.append(axis)
        if (points := math.prod(len(axis.values) for axis in axes)) > MAX_POINTS:
            raise UserError(f"{option} {axis.key}: makes {points} points; a grid has at most {MAX_POINTS}")
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


def _parse_axis(sweep: str, option: str) -> Axis:
    from mmdit.config.yaml_document import ConfigError, one_line, parse

    key, equals, text = sweep.partition("=")
    key, label = key.strip(), f"{option} {one_line(sweep, 60)}"
    if not equals or "" in key.split(".") or len(key) > LONGEST_KEY:
        raise UserError(f"{label}: expected KEY=V1,V2 with a dotted key, as in {option} run.batch_size=1,4")
    texts = [value for part in _split(text) for value in _counted(part.strip())]
    if len(texts) > MAX_POINTS:
        raise UserError(f"{label}: gives {key} {len(texts)} values; a sweep has at most {MAX_POINTS} points")
    values: list[Any] = []
    for place, part in enumerate(texts, start=1):
        if not part:
            raise UserError(f"{label}: value {place} of {key} is empty; write null for none")
        if place > 1 and re.fullmatch(r"0\d\d", part, re.ASCII):  # the rest of 1,024
            whole = f"{texts[place - 2]},{part}"
            raise UserError(
                f"{label}: is {whole} one value? Write it without the comma; or without 0 before {int(part)}"
            )
        try:
            value = parse(part, f"{option} {key}={one_line(part, 60)}", lines=False).data
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
