"""Values held against the annotations of options: their types, their bounds, and what is wrong with them in one line.

A constructor gives Python's values, of which the first wrong one is an error. A config file gives plain data, of which
mappings become options, nothing else is converted, and all that is wrong is told.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mmdit.options.numbers import as_number
from mmdit.options.unread import UNREAD, UnreadError

At = tuple[str | int, ...]  # a path of keys
MOST = 20  # unknown keys for which another is looked for
_DIGITS = re.compile(r"[\d.\s]*")  # what would be a number of YAML's, were it not quoted

_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": ("a number > {:.15g}", lambda value, bound: value > bound),
    "ge": ("a number >= {:.15g}", lambda value, bound: value >= bound),
    "lt": ("a number < {:.15g}", lambda value, bound: value < bound),
    "le": ("a number <= {:.15g}", lambda value, bound: value <= bound),
    "multiple_of": ("a multiple of {:.15g}", lambda value, bound: value % bound == 0),
    "min_length": ("{} or more entries", lambda value, bound: len(value) >= bound),
}


class OptionError(ValueError):
    """An option is wrong; `at` is its path below the part that raises this. `all`: what else is wrong there, too."""

    def __init__(self, at: At, message: str) -> None:
        super().__init__(f"{'.'.join(map(str, at))}: {message}" if at else message)
        self.at, self.message = at, message
        self.all: tuple[OptionError, ...] = (self,)

    def __reduce__(self) -> Any:
        return type(self), (self.at, self.message)


@dataclass(frozen=True)
class Problem:
    """What is wrong at a path; `key`: with the key that is there or missing, not with its value."""

    at: At
    message: str
    key: bool = False
    expected: str = ""  # of a value of another type or out of its bounds
    names: Sequence[str] = ()  # that it could have been


class Reading:
    """Checks values, and keeps what is wrong with them.

    Args:
        quote: how a value is quoted.
        plain: what is given is plain data.
        meant: `; did you mean this?` of an unknown key, by its path and its value.
    """

    def __init__(
        self, quote: Callable[[Any], str], *, plain: bool, meant: Callable[[At, Any], str] = lambda at, value: ""
    ) -> None:
        self.quote, self.plain, self.meant = quote, plain, meant
        self.problems: list[Problem] = []

    def read(self, value: Any, hint: Any, bounds: Mapping[str, Any], at: At = ()) -> Any:
        """A value of an annotated type within its bounds, as Python's own numbers and tuples."""
        origin, of, given = get_origin(hint), get_args(hint), value
        if self.plain and hint in (int, float) and isinstance(value, str) and not _DIGITS.fullmatch(value):
            number = as_number(value)  # "4" stays a text
            value = value if number is None else number
        if origin is Annotated:
            marks = {name: getattr(mark, name) for mark in of[1:] for name in _BOUNDS if hasattr(mark, name)}
            return self.read(value, of[0], marks | dict(bounds), at)
        if origin in (Union, UnionType):
            if self.plain and isinstance(value, Mapping) and all(map(is_dataclass, of)):
                return self._part_by_kind(value, of, at)
            return self._one_of(value, of, bounds, at)
        if self.plain and is_dataclass(hint) and isinstance(value, Mapping):
            return self._part(value, hint, at)
        if origin is dict and isinstance(value, Mapping):
            items = value.items()
            value = {self.read(key, of[0], {}, at): self.read(item, of[1], {}, (*at, key)) for key, item in items}
        elif origin in (tuple, Sequence) and isinstance(value, Collection) and not isinstance(value, (str, Mapping)):
            value = tuple(self.read(item, of[0], {}, (*at, place)) for place, item in enumerate(value))
        elif expected := self._mismatch(value, hint):
            return self._refuse(at, expected, value, get_args(hint) if origin is Literal else ())
        elif hint in (bool, int, float):
            value = hint(value)
        broken = [name for name, (_, holds) in _BOUNDS.items() if name in bounds and not holds(value, bounds[name])]
        if broken == ["min_length"]:
            text, given = (
                ("text of {} or more characters", given) if hint is str else (_BOUNDS[broken[0]][0], len(given))
            )
            return self._refuse(at, text.format(bounds["min_length"]), given)
        if broken:
            return self._refuse(at, " and ".join(_BOUNDS[name][0].format(bounds[name]) for name in broken), given)
        return value

    def _refuse(self, at: At, expected: str, value: Any, names: Sequence[str] = ()) -> Any:
        message = f"expected {expected}, got {self.quote(value)}{_near(value, names)}"
        self.problems.append(Problem(at, message, expected=expected, names=names))
        return UNREAD

    def _part(self, given: Mapping[str, Any], part: Any, at: At) -> Any:
        """Options from a mapping; where one is wrong, those that could be read, and the rules between them."""
        already, values, hints = len(self.problems), {}, hints_of(part)
        for each in fields(part):
            if each.name in given:
                values[each.name] = self.read(given[each.name], hints[each.name], each.metadata, (*at, each.name))
            elif each.default is MISSING and each.default_factory is MISSING:
                form = each.metadata.get("example")
                message = "missing, and it has no default" + (f"; write it as in {each.name}: {form}" if form else "")
                self.problems.append(Problem((*at, each.name), message, key=True))
        names = [each.name for each in fields_of(part)]
        unknown = [key for key in given if key not in hints]
        for key in unknown:
            near = self.meant((*at, key), given[key]) if len(self.problems) < MOST else ""
            message = f"unknown key{near or '.'} Valid keys are {', '.join(names)}"
            self.problems.append(Problem((*at, key), message, key=True))
        wrong = len(self.problems) > already
        made = _unchecked(part, values, complete=not unknown)
        try:
            return part(**values) if not wrong else self._told(at, made.check(), made)
        except OptionError as error:
            return self._told(at, error.all, made)

    def _told(self, at: At, errors: Iterable[OptionError], made: Any) -> Any:
        """What was made although rules are broken; a rule that depends on what is wrong or missing is left out, and
        those after it."""
        with suppress(UnreadError):
            for each in errors:
                self.problems.append(Problem((*at, *each.at), each.message))
        return made

    def _part_by_kind(self, given: Mapping[str, Any], parts: Sequence[Any], at: At) -> Any:
        """Options of the part among several that the key `kind` names."""
        kinds = {name: part for part in parts for kind in types_of(part)["kind"] for name in get_args(kind)}
        if "kind" not in given:
            message = f"missing; expected one of {', '.join(kinds)}, as in kind: {next(iter(kinds))}"
            self.problems.append(Problem((*at, "kind"), message, key=True))
        elif not isinstance(given["kind"], str) or given["kind"] not in kinds:
            self._refuse((*at, "kind"), f"one of {', '.join(kinds)}", given["kind"], list(kinds))
        else:
            return self._part(given, kinds[given["kind"]], at)
        return UNREAD

    def _one_of(self, value: Any, members: Sequence[Any], bounds: Mapping[str, Any], at: At) -> Any:
        """A value of one of several types; what is wrong is said of the one that it came furthest in, or of all."""
        tried, furthest = [], UNREAD
        for member in members:
            reading = Reading(self.quote, plain=self.plain, meant=self.meant)
            result = reading.read(value, member, {} if member is NoneType else bounds, at)
            if not reading.problems:
                return result
            tried += reading.problems
            furthest = result if furthest is UNREAD else furthest
        inner = [problem for problem in tried if problem.at != at or not problem.expected]
        if inner:
            self.problems += inner
            return furthest
        expected = dict.fromkeys(problem.expected for problem in tried)
        if any(words.startswith("a number <= ") for words in expected):
            expected.pop("null", None)  # no advice where a number is too large
        return self._refuse(at, " or ".join(expected), value, [name for problem in tried for name in problem.names])

    def _mismatch(self, value: Any, hint: Any) -> str:
        """What a value should have been, if it is of another type."""
        if get_origin(hint) is Literal:
            named = get_args(hint)
            return "" if isinstance(value, str) and value in named else f"one of {', '.join(named)}"
        if is_dataclass(hint):
            fits, name = isinstance(value, hint), getattr(hint, "__name__", "")  # type: ignore[arg-type]
            return "" if fits else "a mapping" if self.plain else name
        is_real = isinstance(value, Real) and not isinstance(value, bool)
        is_flag = isinstance(value, bool) if self.plain else isinstance(value, Integral) and value in (0, 1)
        right: dict[Any, tuple[bool, str]] = {
            NoneType: (value is None, "null"),
            bool: (is_flag, "true or false"),
            int: (is_real and isinstance(value, Integral), "a whole number"),
            float: (is_real and _is_finite(value), "a finite number" if is_real else "a number"),
            str: (isinstance(value, str), "text"),
            tuple: (False, "a list"),
            Sequence: (False, "a list"),
            dict: (False, "a mapping"),
        }
        fits, expected = right.get(get_origin(hint) or hint, (True, ""))
        return "" if fits else expected


def held(given: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by their names, held against their types and bounds; those without one are as they are.

    Raises:
        OptionError: one is wrong; `at` begins with its name.
    """
    reading, found = Reading(lambda value: f"{value!r:.60}", plain=False), {}
    for name, value in given.items():
        found[name] = reading.read(value, hints[name], {}, (name,)) if name in hints else value
        if reading.problems:
            raise OptionError(reading.problems[0].at, reading.problems[0].message)
    return found


def _unchecked(part: Any, values: Mapping[str, Any], *, complete: bool) -> Any:
    """Options with these values; those not given are at their defaults if `complete`, and nobody knows them if not."""
    made = object.__new__(part)
    for each in fields(part):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        value = default if complete and default is not MISSING else UNREAD
        object.__setattr__(made, each.name, values.get(each.name, value))
    return made


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _near(name: object, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1) if isinstance(name, str) and len(name) <= 100 else []
    return f"; did you mean {near[0]}?" if near else ""


def alternatives(annotation: Any) -> list[Any]:
    """The types that a value may have, without the bounds: `A | None` has two."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in alternatives(member)]
    return [annotation]


@cache
def hints_of(cls: Any) -> dict[str, Any]:
    """The annotation of each field of a dataclass, with its bounds."""
    return get_type_hints(cls, include_extras=True)


@cache
def types_of(cls: Any) -> dict[str, list[Any]]:
    """The types that each field of a dataclass may have."""
    return {name: alternatives(hint) for name, hint in hints_of(cls).items()}


def fields_of(cls: Any) -> list[Field[Any]]:
    """The fields of a dataclass in the order in which they are told."""
    first = getattr(cls, "first", ())
    return sorted(fields(cls), key=lambda each: first.index(each.name) if each.name in first else len(first))
