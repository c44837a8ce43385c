"""`--match params=NAME_OR_NUMBER --vary KEY`: the value of a key at which a config is as large, or costs as much, as
another, so that what is compared is the design and not its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

from mmdit.config.file import validate_mapping
from mmdit.config.yaml_document import ConfigError
from mmdit.config.yaml_text import to_line
from mmdit.options import as_data
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.model_parts.counting import count_forward
from mmdit_cli.model_parts.flop_count import meta_model
from mmdit_cli.model_parts.meta_device import without_compiler
from mmdit_cli.output import units as f
from mmdit_cli.output.tables import tokens_text
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.numbers import read_number
from mmdit_cli.request.request import Request
from mmdit_cli.request.size_limits import possible
from mmdit_cli.request.sweep import PointConfig, load_grid
from mmdit_cli.request.tool_config import ToolConfig

TOLERANCE = 0.02
REACH = 250  # values on either side of one that can't be, among which another is looked for
WIDE = 64  # from here on a multiple of 8, which hardware likes, stays one where it can

By = Literal["params", "flops"]
Values: TypeAlias = dict[str, int]  # by dotted key


@dataclass(frozen=True)
class Matched:
    """A config made equal to `target` in parameters or in forward FLOPs of a call (`by`): `value` is near `wanted`, and
    `changes` are the values that make it so."""

    config: str
    by: By
    target: str
    wanted: int
    value: int
    changes: Values


@dataclass(frozen=True)
class _Candidate:
    """Whole multiples of the values that are varied, with the size that they make."""

    values: Values
    size: int
    config: ToolConfig


def matched_grid(
    request: Request, sweep: Sequence[str] | None, match: str | None, vary: Sequence[str] | None
) -> list[PointConfig]:
    """The grid of a sweep, or each config once, changed as `--match` and `--vary` ask.

    Raises:
        UserError: options contradict one another or are malformed.
        CheckFailed: no value makes a config equal.
        ConfigError: a config is wrong.
    """
    if match is None and not vary:
        return load_grid(request, sweep)
    if sweep:
        raise UserError("--match and --sweep: give one of them; a matched config is one point")
    return [PointConfig(config, {}) for config in match_configs(request, request.load_configs(), match, vary)]


def match_configs(
    request: Request,
    configs: Sequence[ToolConfig],
    match: str | None,
    vary: Sequence[str] | None,
    *,
    counted: Callable[[ToolConfig], ToolConfig] = lambda config: config,
) -> list[ToolConfig]:
    """The request's configs, each with the values at which it equals the target; noted in the request. The target,
    where it is one of them, stays as it is.

    Args:
        counted: what is counted of a config, such as with the batch that it is trained on.

    Raises:
        UserError: options are malformed, or a key holds no whole number.
        CheckFailed: no value makes a config equal.
        ConfigError: the target's config is wrong.
    """
    if match is None and not vary:
        return list(configs)
    if match is None:
        raise UserError("--vary: to equal what? Give --match params=NAME_OR_NUMBER")
    if not vary:
        raise UserError("--match: which value may change? Give --vary model.depth, or several that scale together")
    by, target = _parse(match)
    size = _parameters if by == "params" else lambda config: _forward_flops(counted(config))
    with without_compiler():
        wanted, said = _wanted(request, configs, by, target, size, counted)
        done = []
        for name, config in zip(request.configs, configs, strict=True):
            if name != target:
                best = _match(config, vary, wanted, size, by, target)
                found = Matched(config.name, by, target, wanted, best.size, best.values)
                request.beside.setdefault("matched", []).append(found)
                request.footnotes.append(_sentence(found))
                config = best.config
            done.append(config)
    request.footnotes.extend(said)
    request.read[:] = map(as_data, done)
    return done


def _parse(match: str) -> tuple[By, str]:
    by, equals, target = (part.strip() for part in match.partition("="))
    if by not in get_args(By) or not equals or not target:
        raise UserError(
            f"--match {match}: expected params=NAME_OR_NUMBER or flops=NAME_OR_NUMBER, as in --match params=sd3-medium"
        )
    return by, target  # type: ignore[return-value]


def _wanted(
    request: Request,
    configs: Sequence[ToolConfig],
    by: By,
    target: str,
    size: Callable[[ToolConfig], int],
    counted: Callable[[ToolConfig], ToolConfig],
) -> tuple[int, list[str]]:
    """How large a config is to be, and what is to be known of that."""
    with suppress(UserError):
        return max(1, round(read_number(target, "--match"))), []
    given = dict(zip(request.configs, configs, strict=True))
    if (config := given.get(target)) is None:
        (config,) = replace(request, configs=[target], overrides=[], unused={}, read=[]).load_configs()
    if by == "params":
        return size(config), []
    batch = f"{counted(config).run.batch_size} × {tokens_text(counted(config).all_tokens())}"
    return size(config), [f"FLOPs a call of {target}: of {batch}, as its config says."]


def _parameters(config: ToolConfig) -> int:
    with possible(config):
        return sum(p.numel() for p in meta_model(config).parameters())


def _forward_flops(config: ToolConfig) -> int:
    with possible(config):
        return count_forward(meta_model(config), example_inputs(config, device="meta"))


def _match(
    config: ToolConfig, vary: Sequence[str], wanted: int, size: Callable[[ToolConfig], int], by: By, target: str
) -> _Candidate:
    """The multiple of the varied values that comes nearest.

    Raises:
        UserError: a key holds no whole number.
        CheckFailed: it does not come within `TOLERANCE`.
    """
    data = as_data(config)
    base = {key: value for each in vary for key, value in _values(data, each.strip(), config.name)}
    common = math.gcd(*base.values())
    unit = {key: value // common for key, value in base.items()}
    wide = [unit[key] for key, value in base.items() if value >= WIDE and value % 8 == 0]
    eights = next(step for step in (1, 2, 4, 8) if all(step * each % 8 == 0 for each in wide))

    @cache
    def at(multiple: int) -> _Candidate | None:
        return _candidate(config, data, {key: multiple * each for key, each in unit.items()}, size)

    for step in dict.fromkeys((eights, 1)):
        around = [each for each in _around(at, common, wanted, step) if each is not None]
        best = min(around, key=lambda each: abs(each.size - wanted), default=None)
        if best is not None and abs(best.size / wanted - 1) <= TOLERANCE:
            return best
    nearest = (_sentence(Matched(config.name, by, target, wanted, each.size, each.values)) for each in around)
    raise CheckFailed(
        f"--match {by}={target}: no value of {', '.join(vary)} makes {config.name} equal it within {TOLERANCE:.0%}; "
        f"the nearest: {' '.join(nearest)}"
    )


def _around(
    at: Callable[[int], _Candidate | None], start: int, wanted: int, step: int
) -> tuple[_Candidate | None, _Candidate | None]:
    """The multiples next to what is wanted: the largest that is not above it, and the smallest that is."""
    low, high = 0, start
    while (found := _nearest(at, range(low + step, 2 * high + step, step), high)) and found[1].size <= wanted:
        low, high = found[0], 2 * found[0]
    high = found[0] if found else high
    while found := _nearest(at, range(low + step, high, step), (low + high) // 2):
        if found[1].size <= wanted:
            low = found[0]
        else:
            high = found[0]
    return at(low) if low else None, at(high)


def _nearest(at: Callable[[int], _Candidate | None], multiples: range, near: int) -> tuple[int, _Candidate] | None:
    """Of some multiples the one nearest to a number that can be, and what it is; None where none near it can."""
    middle = (near - multiples.start) // multiples.step
    for away in range(REACH):
        for place in dict.fromkeys((middle - away, middle + away)):
            if 0 <= place < len(multiples) and (found := at(multiples[place])) is not None:
                return multiples[place], found
    return None


def _candidate(
    config: ToolConfig, data: dict[str, Any], values: Values, size: Callable[[ToolConfig], int]
) -> _Candidate | None:
    """The config with these values; None where it can't be."""
    changed = deepcopy(data)
    for key, value in values.items():
        *above, last = key.split(".")
        here = changed
        for part in above:
            here = here[part]
        here[last] = value
    try:
        made = validate_mapping(changed, type(config), source=config.name)
        return _Candidate(values, size(made), made)
    except (ConfigError, UserError):
        return None


def _values(data: Any, key: str, config: str) -> Iterator[tuple[str, int]]:
    """The whole numbers that a key, with `*` for every one, has in a config."""
    found: list[tuple[tuple[str, ...], Any]] = [((), data)]
    for part in key.split("."):
        inner = [(at, here) for at, here in found if isinstance(here, dict)]
        found = [
            ((*at, name), here[name]) for at, here in inner for name in (here if part == "*" else {part} & here.keys())
        ]
    if not found:
        raise UserError(f"--vary {key}: {config} has no value there; give one to begin with by --set {key}=N")
    for at, value in found:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 1:
            place = ".".join(at)
            problem = f"expected a whole number to begin with, got {to_line(value)}"
            raise UserError(f"--vary {key}: {place} of {config}: {problem}; give one by --set {place}=N")
        yield ".".join(at), int(value)


def _sentence(found: Matched) -> str:
    """`Matched: a with --set model.depth=7 has 100 M parameters (0.3 % below 100M).`"""
    show, what = (f.count, "parameters") if found.by == "params" else (f.flops, "a call")
    off = found.value / found.wanted - 1
    side = "below" if off < 0 else "above"
    sets = " ".join(f"--set {key}={value}" for key, value in found.changes.items())
    return f"{found.config} with {sets} has {show(found.value)} {what}, {abs(off):.1%} {side} {found.target}."
