"""From pydantic's errors to lines a person acts on: the place, the key, what was expected, what was got."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mmdit.config.yaml_document import ConfigError, Document, KeyPath, dotted, one_line, short
from mmdit.options import OptionError
from mmdit.options.fields import alternatives, fields_of, types_of

MAX_LINES = 10

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "a number > {gt:g}",
    "greater_than_equal": "a number >= {ge:g}",
    "less_than": "a number < {lt:g}",
    "less_than_equal": "a number <= {le:.15g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text of {min_length} or more characters",
    "literal_error": "{expected}",
    "dataclass_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "{min_length} or more entries",
}


def explain(error: ValidationError, schema: type, document: Document) -> ConfigError:
    """One error with a line per problem, in the order of the file."""
    problems = _merged([_Problem(details, schema, document) for details in error.errors(include_url=False)])
    wrong_inside = {problem.path[:depth] for problem in problems for depth in range(len(problem.path))}
    # pydantic counts the right entries alone
    problems = [problem for problem in problems if problem.kind != "too_short" or problem.path not in wrong_inside]
    problems.sort(key=lambda problem: (problem.place.line == 0, problem.place.line, problem.place.column))
    lines = [problem.line() for problem in problems[:MAX_LINES]]
    if len(problems) > MAX_LINES:
        lines.append(f"and {len(problems) - MAX_LINES} more")
    return ConfigError("\n".join(lines))


class _Problem:
    def __init__(self, details: ErrorDetails, schema: type, document: Document) -> None:
        self.kind, self.got, self.message = details["type"], details["input"], details["msg"]
        self.context = details.get("ctx") or {}
        unknown, absent = self.kind == "unexpected_keyword_argument", self.kind in ("missing", "union_tag_not_found")
        self.rule = self.context.get("error")  # that was broken: its own words
        below = self.rule.at if isinstance(self.rule, OptionError) else ()
        self.spot = _Spot.find(schema, details["loc"][:-1] if unknown else details["loc"])
        self.path = (*self.spot.path, *(details["loc"][-1:] if unknown else ()), *below)
        self.names: list[str] = []  # that the key or value could have been
        self.among = [self]  # with the other members of a union, each with an expectation of its own
        if unknown:
            self.names = self.spot.keys()
        elif self.kind.startswith("union_tag"):
            key = self.context["discriminator"].strip("'")
            self.path, self.names = (*self.path, key), self.spot.choices(key)
            self.got = self.got.get(key) if isinstance(self.got, Mapping) else None
        elif self.kind == "literal_error":
            self.names = re.findall(r"'([^']*)'", self.context["expected"])
        self.place = document.where(self.path[:-1] if absent else self.path, key=absent or unknown)

    def line(self) -> str:
        return one_line(f"{self.place}: {dotted(self.path) or 'the whole config'}: {self.text()}")

    def text(self) -> str:
        if self.rule is not None:
            return self.rule.message if isinstance(self.rule, OptionError) else str(self.rule)
        if self.kind == "missing":
            return "missing, and it has no default"
        if self.kind == "union_tag_not_found":
            return f"missing; expected one of {', '.join(self.names)}"
        if self.kind == "unexpected_keyword_argument":
            return f"unknown key{_near(self.path[-1], self.names) or '.'} Valid keys are {', '.join(self.names)}"
        expected = " or ".join(dict.fromkeys(problem.expected() for problem in self.among))
        if not expected:
            return self.message
        # null is no advice where a number is too large
        if any(p.spot.nullable and p.path == p.spot.path for p in self.among) and self.kind != "less_than_equal":
            expected += " or null"
        got = self.context["actual_length"] if self.kind == "too_short" else short(self.got)
        return f"expected {expected}, got {got}{_near(self.got, self.names)}"

    def expected(self) -> str:
        """What the value has to be; empty where pydantic's message says it in another way."""
        start = "Input should be "
        if self.kind == "union_tag_invalid":
            expected = f"one of {', '.join(self.names)}"
        elif self.kind in _EXPECTED:
            expected = _EXPECTED[self.kind].format(**self.context)
        elif self.message.startswith(start):
            expected = self.message.removeprefix(start)
        else:
            return ""
        return expected


def _merged(problems: list[_Problem]) -> list[_Problem]:
    """One problem a union: what its nearest member says, or what they all expect where none came closer."""
    entered = {p.spot.union for p in problems if p.spot.union is not None and len(p.path) > len(p.spot.union)}
    result: list[_Problem] = []
    first: dict[KeyPath, _Problem] = {}
    for problem in problems:
        if problem.spot.union != problem.path:
            result.append(problem)
        elif problem.path in first:
            first[problem.path].among.append(problem)
        elif problem.path not in entered:
            first[problem.path] = problem
            result.append(problem)
    return result


def _near(name: object, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1) if isinstance(name, str) and len(name) <= 100 else []
    return f"; did you mean {near[0]}?" if near else ""


@dataclass(frozen=True)
class _Spot:
    """Where an error's location leads in the data, and the types that a value may have there."""

    path: KeyPath
    types: list[Any]
    nullable: bool
    union: KeyPath | None  # the path of the last union on the way

    @classmethod
    def find(cls, schema: type, location: Sequence[str | int]) -> _Spot:
        path: KeyPath = ()
        types: list[Any] = [schema]
        union, nullable = None, False
        for part in location:
            if len(types) > 1:  # not a key but pydantic's name of the union's member that it tried
                union, types = path, [kind for kind in types if _is_member(kind, str(part))]
            else:
                path = (*path, part)
                found = _children(types[0] if types else Any, part)
                types, nullable = [kind for kind in found if kind is not NoneType], NoneType in found
        return cls(path, types, nullable, union)

    def keys(self) -> list[str]:
        return [each.name for kind in self.types if is_dataclass(kind) for each in fields_of(kind)]

    def choices(self, key: str) -> list[str]:
        """The values by which `key` chooses among the types."""
        named = [types_of(kind)[key] for kind in self.types if is_dataclass(kind) and key in types_of(kind)]
        return [str(value) for kinds in named for kind in kinds for value in get_args(kind)]


def _is_member(kind: Any, label: str) -> bool:
    """Whether pydantic's label of a union's member, such as `linear`, `constrained-int`, `dict[str,int]`, means it."""
    if is_dataclass(kind):
        return label == getattr(kind, "__name__", "") or any(
            label in get_args(each) for kinds in types_of(kind).values() for each in kinds
        )
    return label.partition("[")[0].endswith(getattr(get_origin(kind) or kind, "__name__", "?"))


def _children(kind: Any, part: str | int) -> list[Any]:
    """The types of what may stand at a key or an index of this type."""
    if is_dataclass(kind):
        return types_of(kind).get(str(part), [Any])
    if get_origin(kind) in (dict, Mapping):
        return alternatives(get_args(kind)[1])
    return alternatives(get_args(kind)[0]) if get_origin(kind) in (tuple, list) else [Any]
