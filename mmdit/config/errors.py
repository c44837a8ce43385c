"""From pydantic's errors to lines a person acts on: the place, the key, what was expected, what was got."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mmdit.config.yaml_document import ConfigError, Document, KeyPath, dotted, one_line, short

MAX_LINES = 10

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "a number > {gt:g}",
    "greater_than_equal": "a number >= {ge:g}",
    "less_than": "a number < {lt:g}",
    "less_than_equal": "a number <= {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text of {min_length} or more characters",
    "literal_error": "{expected}",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "{min_length} or more entries",
}


def explain(error: ValidationError, schema: type[BaseModel], document: Document) -> ConfigError:
    """One error with a line per problem, in the order of the file."""
    problems = _merged([_Problem(details, schema, document) for details in error.errors(include_url=False)])
    problems.sort(key=lambda problem: (problem.place.line == 0, problem.place.line, problem.place.column))
    lines = [problem.line() for problem in problems[:MAX_LINES]]
    if len(problems) > MAX_LINES:
        lines.append(f"and {len(problems) - MAX_LINES} more")
    return ConfigError("\n".join(lines))


class _Problem:
    def __init__(self, details: ErrorDetails, schema: type[BaseModel], document: Document) -> None:
        self.kind, self.got, self.message = details["type"], details["input"], details["msg"]
        self.context = details.get("ctx") or {}
        unknown, absent = self.kind == "extra_forbidden", self.kind in ("missing", "union_tag_not_found")
        self.spot = _Spot.find(schema, details["loc"][:-1] if unknown else details["loc"])
        self.path = (*self.spot.path, *(details["loc"][-1:] if unknown else ()), *self.context.get("at", ()))
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
        if "at" in self.context:
            return str(self.context["message"])
        if self.kind == "missing":
            return "missing, and it has no default"
        if self.kind == "union_tag_not_found":
            return f"missing; expected one of {', '.join(self.names)}"
        if self.kind == "extra_forbidden":
            return f"unknown key{_near(self.path[-1], self.names) or '.'} Valid keys are {', '.join(self.names)}"
        expected = " or ".join(dict.fromkeys(problem.expected() for problem in self.among))
        if not expected:
            return self.message.removeprefix("Value error, ")
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
        return f"{expected} or null" if self.spot.nullable and self.path == self.spot.path else expected


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
    def find(cls, schema: type[BaseModel], location: Sequence[str | int]) -> _Spot:
        path: KeyPath = ()
        types: list[Any] = [schema]
        union, nullable = None, False
        for part in location:
            if len(types) > 1:  # not a key but pydantic's name of the union's member that it tried
                union, types = path, [kind for kind in types if _is_member(kind, str(part))]
            else:
                path = (*path, part)
                found = _alternatives(_child(types[0] if types else Any, part))
                types, nullable = [kind for kind in found if kind is not NoneType], NoneType in found
        return cls(path, types, nullable, union)

    def keys(self) -> list[str]:
        return [name for kind in self.types if _is_model(kind) for name in kind.model_fields]

    def choices(self, key: str) -> list[str]:
        """The values by which `key` chooses among the types."""
        fields = [kind.model_fields[key] for kind in self.types if _is_model(kind) and key in kind.model_fields]
        return [str(value) for field in fields for value in get_args(field.annotation)]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_member(kind: Any, label: str) -> bool:
    """Whether pydantic's label of a union's member, such as `linear`, `constrained-int`, `dict[str,int]`, means it."""
    if _is_model(kind):
        return label == kind.__name__ or any(label in get_args(f.annotation) for f in kind.model_fields.values())
    return label.partition("[")[0].endswith(getattr(get_origin(kind) or kind, "__name__", "?"))


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in _alternatives(member)]
    return [annotation]


def _child(kind: Any, part: str | int) -> Any:
    """The annotation of what stands at a key or an index of this type."""
    if _is_model(kind):
        return kind.model_fields[str(part)].annotation if part in kind.model_fields else Any
    if get_origin(kind) in (dict, Mapping):
        return get_args(kind)[1]
    return get_args(kind)[0] if get_origin(kind) in (tuple, list) else Any
