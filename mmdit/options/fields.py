"""What a model is, as plain data: one frozen dataclass a part.

Each field is an option: its type, default and bounds, and the sentence that documents it. The constructors take these
objects, or the keywords that the fields name; YAML (validated by pydantic), the JSON Schema and the docs' tables read
the same fields. Rules between options stand in `check`, once for all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Le
from pydantic import Strict

if TYPE_CHECKING:
    from typing_extensions import Self

Made = TypeVar("Made", bound=type)
At = tuple[str | int, ...]  # a path of keys

LARGEST = 1 << 32  # of sizes and counts; what they multiply to is checked where it is known
Whole = Annotated[int, Strict(), Le(LARGEST)]  # nothing is converted: `true` is no 1, and "4" no 4
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Count = Annotated[Whole, Ge(0)]

_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": ("a number > {:.15g}", lambda value, bound: value > bound),
    "ge": ("a number >= {:.15g}", lambda value, bound: value >= bound),
    "lt": ("a number < {:.15g}", lambda value, bound: value < bound),
    "le": ("a number <= {:.15g}", lambda value, bound: value <= bound),
    "multiple_of": ("a multiple of {:.15g}", lambda value, bound: value % bound == 0),
    "min_length": ("{} or more entries", lambda value, bound: len(value) >= bound),
}


class OptionError(ValueError):
    """An option is wrong; `at` is its path below the part that raises this."""

    def __init__(self, at: At, message: str) -> None:
        super().__init__(f"{'.'.join(map(str, at))}: {message}" if at else message)
        self.at, self.message = at, message

    def __reduce__(self) -> Any:
        return type(self), (self.at, self.message)


def option(
    default: Any = MISSING,
    sentence: str = "",
    *,
    keywords: str | Mapping[str, Any] | None = None,
    made: Callable[..., Any] | None = None,
    **bounds: Any,
) -> Any:
    """A field of a part.

    Args:
        default: MISSING where it has none; a dict is copied each time.
        sentence: what it is, for the docs.
        keywords: of the constructors, where they are not called as the field is: another name, or several with their
            defaults, of which `made` makes the value. None at all: `{}`.
        bounds: gt, ge, lt, le, multiple_of or min_length, as pydantic calls them.
    """
    metadata = {"description": sentence, "keywords": keywords, "made": made, **bounds}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """A part: immutable, checked when it is made, and made of a constructor's keywords or of a config's section.

    Raises:
        OptionError: an option is out of its bounds, or contradicts another.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "allow_inf_nan": False}

    def __post_init__(self) -> None:
        for each in fields(self):
            value, kinds = getattr(self, each.name), types_of(type(self))[each.name]
            if (expected := _expected(each, _choices(kinds), value)) is not None:
                raise OptionError((each.name,), f"expected {expected}, got {value!r}")
        self.check()

    def check(self) -> None:
        """The rules between options. Raises OptionError."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, which other libraries ask a model's `config` for (peft, accelerate)."""
        data: dict[str, Any] = as_data(self)
        return data

    def get(self, name: str, default: Any = None) -> Any:
        """An option by its name, as of a mapping."""
        return getattr(self, name, default)

    @classmethod
    def of(cls, given: Self | None, keywords: Mapping[str, Any], owner: str) -> Self:
        """The options given, or else those that a constructor's keywords make.

        Raises:
            TypeError: both are given, or a keyword is unknown or missing.
            OptionError: a keyword's value is wrong.
        """
        known = {} if given is not None else cls.keywords()
        if unknown := [name for name in keywords if name not in known]:
            raise TypeError(f"{owner}() got an unexpected keyword argument {unknown[0]!r}")
        if given is not None:
            return given
        if missing := [name for name, default in known.items() if default is MISSING and name not in keywords]:
            raise TypeError(f"{owner}() missing the keyword argument {missing[0]!r}")
        return cls._made_of({**known, **keywords})

    @classmethod
    def keywords(cls) -> dict[str, Any]:
        """The keywords that constructors take for this part and those below it, with their defaults."""
        found: dict[str, Any] = {}
        for each, part in parts_of(cls):
            found |= part.keywords() if part and each.metadata["keywords"] is None else keywords_of(each)
        return found

    @classmethod
    def _made_of(cls, keywords: Mapping[str, Any]) -> Self:
        values: dict[str, Any] = {}
        for each, part in parts_of(cls):
            names = keywords_of(each)
            if part and each.metadata["keywords"] is None:
                values[each.name] = part._made_of(keywords)
            elif names:
                given = [keywords[name] for name in names]
                try:
                    values[each.name] = given[0] if each.metadata["made"] is None else each.metadata["made"](*given)
                except OptionError as error:
                    raise OptionError((next(iter(names)), *error.at), error.message) from None
        try:
            return cls(**values)
        except OptionError as error:
            raise OptionError(_as_keyword(cls, error.at), error.message) from None


def takes(options: type[Options], *, without: Collection[str] = ()) -> Callable[[Made], Made]:
    """Give a class whose constructor has `**keywords` the signature that tells them, for `help` and editors."""

    def signed(owner: Made) -> Made:
        *own, _ = list(inspect.signature(owner.__init__).parameters.values())[1:]  # type: ignore[misc]
        known = {parameter.name for parameter in own} | {*without}
        further = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(value))
            for name, value in options.keywords().items()
            if name not in known
        ]
        owner.__signature__ = inspect.Signature([*own, *further])  # type: ignore[attr-defined]
        return owner

    return signed


def _default(value: Any) -> Any:
    return inspect.Parameter.empty if value is MISSING else value


def as_data(value: Any) -> Any:
    """Options as dicts, lists and scalars, defaults too: what YAML and JSON can say."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_data(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {key: as_data(item) for key, item in value.items()}
    return [as_data(item) for item in value] if isinstance(value, (list, tuple)) else value


def alternatives(annotation: Any) -> list[Any]:
    """The types that a value may have, without the bounds: `A | None` has two."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in alternatives(member)]
    return [annotation]


def types_of(cls: Any) -> dict[str, list[Any]]:
    """The types that each field of a dataclass may have."""
    return _types(cls)


@cache
def _types(cls: Any) -> dict[str, list[Any]]:
    return {name: alternatives(hint) for name, hint in get_type_hints(cls, include_extras=True).items()}


def _choices(kinds: list[Any]) -> tuple[Any, ...]:
    """The values that a field of named values may have, and None; empty for others."""
    named = tuple(value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind))
    return named + ((None,) if NoneType in kinds else ())


def _expected(each: Field[Any], choices: tuple[Any, ...], value: Any) -> str | None:
    """What a value should have been; None where it is right, or of a type that pydantic alone looks at."""
    if value is None and None in choices:
        return None
    named = [choice for choice in choices if choice is not None]
    if named and not isinstance(value, (bool, dict)):
        return None if value in named else f"one of {', '.join(map(str, named))}"
    for bound, (text, holds) in _BOUNDS.items():
        limit = each.metadata.get(bound)
        try:
            if limit is not None and (bound == "min_length" or not isinstance(value, dict)) and not holds(value, limit):
                return text.format(limit)
        except TypeError:
            return text.format(limit)
    return None


def parts_of(cls: Any) -> list[tuple[Field[Any], type[Options] | None]]:
    """The fields, and the class of those that are parts themselves."""
    found = ((each, types_of(cls)[each.name][0]) for each in fields(cls))
    return [(each, kind if isinstance(kind, type) and issubclass(kind, Options) else None) for each, kind in found]


def keywords_of(each: Field[Any]) -> dict[str, Any]:
    """A field's keywords with their defaults."""
    names = each.metadata["keywords"]
    if isinstance(names, Mapping):
        return dict(names)
    return {names or each.name: each.default}


def _as_keyword(cls: type[Options], at: At) -> At:
    """A path in a part as the keyword that a caller gave for it."""
    each, part = next((found for found in parts_of(cls) if found[0].name == at[0]), (None, None))
    if each is None:
        return at
    if part and len(at) > 1 and each.metadata["keywords"] is None:
        return _as_keyword(part, at[1:])
    return (next(iter(keywords_of(each)), each.name), *at[1:])
