"""What a model is, as plain data: one frozen dataclass a part.

Each field is an option: its type, default and bounds, and the sentence that documents it. The constructors take these
objects, or the keywords that the fields name; YAML (validated by pydantic), the JSON Schema and the docs' tables read
the same fields. Rules between options stand in `check`, once for all of them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import MappingProxyType, NoneType, UnionType
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
    later: bool = False,
    **bounds: Any,
) -> Any:
    """A field of a part.

    Args:
        default: MISSING where it has none; a dict is copied each time.
        sentence: what it is, for the docs.
        keywords: of the constructors, where they are not called as the field is: another name, or several with their
            defaults, of which `made` makes the value. None at all: `{}`.
        later: came after files were written without it, which are to stay as they are: `as_data` leaves it out where it
            is at its default.
        bounds: gt, ge, lt, le, multiple_of or min_length, as pydantic calls them.
    """
    metadata = {"description": sentence, "keywords": keywords, "made": made, "later": later, **bounds}
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
    first: ClassVar[tuple[str, ...]] = ()  # fields that errors and tables name before the inherited ones

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        for each in fields(self):
            try:
                value = checked(getattr(self, each.name), hints[each.name], each.metadata)
            except OptionError as error:
                raise OptionError((each.name, *error.at), error.message) from None
            object.__setattr__(self, each.name, value)
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
            TypeError: both are given, or something else than options, or a keyword is unknown or missing.
            OptionError: a keyword's value is wrong.
        """
        if given is not None and not isinstance(given, cls):
            raise TypeError(f"{owner}() takes {cls.__name__}, or keywords alone; got {given!r:.60}")
        known = cls.keywords()
        if unknown := [name for name in keywords if name not in known]:
            raise TypeError(f"{owner}() got an unexpected keyword argument {unknown[0]!r}")
        if given is not None:
            if keywords:
                raise TypeError(f"{owner}() takes options or keywords, got both: {', '.join(keywords)}")
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
                    raise OptionError(_named(names, error.at), error.message) from None
        try:
            return cls(**values)
        except OptionError as error:
            raise OptionError(_as_keyword(cls, error.at), error.message) from None


def takes(
    options: type[Options], *, without: Collection[str] = (), own: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Made], Made]:
    """Give a class whose constructor has `**keywords` the signature that tells them, and their sentences in its
    docstring.

    Args:
        without: keywords of the options that the class does not take.
        own: keywords that it takes beside them, with their defaults.
    """

    def signed(owner: Made) -> Made:
        construct: Any = owner.__init__  # type: ignore[misc]
        *written, _ = inspect.signature(construct).parameters.values()
        known = {parameter.name for parameter in written} | {*without}
        further, lines = [_keyword(name, default) for name, default in own.items()], []
        for names, sentence in described(options):
            for name in [name for name in names if name not in known]:
                lines.append(f"        {name}: {sentence}")
            further += [_keyword(name, default) for name, default in names.items() if name not in known]
            known |= names.keys()
        construct.__signature__ = inspect.Signature([*written, *further])
        owner.__doc__ = "\n".join([f"{owner.__doc__}\n    Keywords, in place of options:", *lines])
        return owner

    return signed


def _keyword(name: str, default: Any) -> inspect.Parameter:
    given = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=given)


def described(options: type[Options]) -> Iterator[tuple[dict[str, Any], str]]:
    """The keywords that make each option, with their defaults, and its sentence."""
    for each, part in parts_of(options):
        if part and each.metadata["keywords"] is None:
            yield from described(part)
        else:
            yield keywords_of(each), each.metadata["description"]


def as_data(value: Any) -> Any:
    """Options as dicts, lists and scalars, defaults too: what YAML and JSON can say."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = [(each, getattr(value, each.name)) for each in fields(value)]
        return {each.name: as_data(x) for each, x in kept if not each.metadata.get("later") or x != each.default}
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


def hints_of(cls: Any) -> dict[str, Any]:
    """The annotation of each field of a dataclass, with its bounds."""
    return _hints(cls)


def fields_of(cls: Any) -> list[Field[Any]]:
    """The fields of a dataclass in the order in which they are told."""
    first = getattr(cls, "first", ())
    return sorted(fields(cls), key=lambda each: first.index(each.name) if each.name in first else len(first))


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


@cache
def _types(cls: Any) -> dict[str, list[Any]]:
    return {name: alternatives(hint) for name, hint in _hints(cls).items()}


def checked(value: Any, hint: Any, bounds: Mapping[str, Any]) -> Any:
    """A value of an annotated type within its bounds, as Python's own numbers and tuples.

    Raises:
        OptionError: it is another, or something in it is.
    """
    origin, of, given = get_origin(hint), get_args(hint), value
    if origin is Annotated:
        marks = {name: getattr(mark, name) for mark in of[1:] for name in _BOUNDS if hasattr(mark, name)}
        return checked(value, of[0], marks | dict(bounds))
    if origin in (Union, UnionType):
        return _one_of(value, of, bounds)
    if origin is dict and isinstance(value, Mapping):
        value = {key: _inside(item, of[1], key) for key, item in value.items()}
    elif origin is tuple and isinstance(value, (tuple, list, set, frozenset)):
        value = tuple(_inside(item, of[0], place) for place, item in enumerate(value))
    elif (expected := _mismatch(value, hint)) is not None:
        raise OptionError((), f"expected {expected}, got {value!r:.60}")
    elif hint in (bool, int, float):
        value = hint(value)
    for name, (text, holds) in _BOUNDS.items():
        if name in bounds and not holds(value, bounds[name]):
            raise OptionError((), f"expected {text.format(bounds[name])}, got {given!r:.60}")
    return value


def _inside(value: Any, hint: Any, at: str | int) -> Any:
    try:
        return checked(value, hint, {})
    except OptionError as error:
        raise OptionError((at, *error.at), error.message) from None


def _one_of(value: Any, members: Sequence[Any], bounds: Mapping[str, Any]) -> Any:
    """A value of one of several types; the error is of the member that it came furthest in, or of them all."""
    problems = []  # in words: an error that is kept holds every caller's models through its traceback
    for member in members:
        try:
            return checked(value, member, {} if member is NoneType else bounds)
        except OptionError as error:
            problems.append((error.at, error.message))
    if inner := [(at, message) for at, message in problems if at]:
        raise OptionError(*inner[0])
    words = [message.removeprefix("expected ").rpartition(", got ")[0] for _, message in problems]
    raise OptionError((), f"expected {' or '.join(dict.fromkeys(words))}, got {value!r:.60}")


def _mismatch(value: Any, hint: Any) -> str | None:
    """What a value should have been, if it is of another type."""
    if get_origin(hint) is Literal:
        named = get_args(hint)
        return None if isinstance(value, str) and value in named else f"one of {', '.join(map(str, named))}"
    if is_dataclass(hint):
        return None if isinstance(value, hint) else getattr(hint, "__name__", "")  # type: ignore[arg-type]
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    right: dict[Any, tuple[bool, str]] = {
        NoneType: (value is None, "null"),
        bool: (isinstance(value, Integral) and value in (0, 1), "true or false"),
        int: (is_real and isinstance(value, Integral), "a whole number"),
        float: (is_real and math.isfinite(value), "a finite number" if is_real else "a number"),
        str: (isinstance(value, str), "text"),
        tuple: (False, "a list"),
        dict: (False, "a mapping"),
    }
    fits, expected = right.get(get_origin(hint) or hint, (True, ""))
    return None if fits else expected


def parts_of(cls: Any) -> list[tuple[Field[Any], type[Options] | None]]:
    """The fields, and the class of those that are parts themselves."""
    found = ((each, types_of(cls)[each.name][0]) for each in fields_of(cls))
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
    return _named(keywords_of(each) or {each.name: None}, at[1:])


def _named(names: Mapping[str, Any], below: At) -> At:
    """The path below an option that these keywords make: from the one that gives what is there, or the first."""
    own = [name for name in names if below and name.endswith(f"_{below[0]}")]
    return (own[0], *below[1:]) if own else (next(iter(names)), *below)
