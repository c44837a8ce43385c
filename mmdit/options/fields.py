"""What a model is, as plain data: one frozen dataclass a part.

Each field is an option: its type, default and bounds, and the sentence that documents it. The constructors take these
objects, or the keywords that the fields name; YAML, the JSON Schema (made by pydantic) and the docs' tables read
the same fields. Rules between options stand in `check`, once for all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache, wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, TypeVar, cast, get_type_hints

from annotated_types import Ge, Gt, Le

from mmdit.options.values import At, OptionError, Reading, fields_of, held, hints_of, types_of

if TYPE_CHECKING:
    from typing_extensions import Self

Made = TypeVar("Made", bound=type)

LARGEST = 1 << 32  # of sizes and counts; what they multiply to is checked where it is known
Whole = Annotated[int, Le(LARGEST)]
Number: TypeAlias = float
Flag: TypeAlias = bool
Text: TypeAlias = str
Count = Annotated[Whole, Ge(0)]
Size = Annotated[Whole, Gt(0)]


class _ByKind:
    """Says in the JSON Schema that the key `kind` tells which of several parts a mapping is. Pydantic asks for it, and
    is imported by nobody else: it takes as long as all of this package."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Discriminator

        return Discriminator("kind").__get_pydantic_core_schema__(source, handler)


BY_KIND = _ByKind()


def option(
    default: Any = MISSING,
    sentence: str = "",
    *,
    keywords: str | Mapping[str, Any] | None = None,
    made: Callable[..., Any] | None = None,
    types: Sequence[Any] = (),
    later: bool = False,
    example: str = "",
    **bounds: Any,
) -> Any:
    """A field of a part.

    Args:
        default: MISSING where it has none; a dict is copied each time.
        sentence: what it is, for the docs.
        keywords: of the constructors, where they are not called as the field is: another name, or several with their
            defaults, of which `made` makes the value. None at all: `{}`.
        types: of these keywords, in their order, where a field of their own does not check them.
        later: came after files were written without it, which are to stay as they are: `as_data` leaves it out where it
            is at its default.
        example: a value as a config file has it, which errors show where the option is missing.
        bounds: gt, ge, lt, le, multiple_of or min_length, as pydantic calls them.
    """
    metadata = {
        "description": sentence,
        "keywords": keywords,
        "made": made,
        "types": types,
        "later": later,
        "example": example,
        **bounds,
    }
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
        reading, own = Reading(lambda value: f"{value!r:.60}", plain=False), cast(Any, type(self))
        for each in fields(self):
            value = reading.read(getattr(self, each.name), hints_of(own)[each.name], each.metadata, (each.name,))
            if reading.problems:
                raise OptionError(reading.problems[0].at, reading.problems[0].message)
            object.__setattr__(self, each.name, value)
        if broken := tuple(self.check()):
            broken[0].all = broken
            raise broken[0]

    def check(self) -> Iterator[OptionError]:
        """The rules between options: an error for each that is broken."""
        yield from ()

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
            found |= part.keywords() if part else keywords_of(each)
        return found

    @classmethod
    def _made_of(cls, keywords: Mapping[str, Any]) -> Self:
        values: dict[str, Any] = {}
        for each, part in parts_of(cls):
            if part:
                values[each.name] = part._made_of(keywords)
            elif names := keywords_of(each):
                hints = dict(zip(names, each.metadata["types"], strict=False))
                given = [*held({name: keywords[name] for name in names}, hints).values()]
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

        @wraps(construct)
        def checked(self: Any, *given: Any, **keywords: Any) -> None:
            construct(self, *given, **held(keywords, _own_types(construct)))

        *written, _ = inspect.signature(construct).parameters.values()
        known = {parameter.name for parameter in written} | {*without}
        further, lines = [_keyword(name, default) for name, default in own.items()], []
        for names, sentence in described(options):
            for name in [name for name in names if name not in known]:
                lines.append(f"        {name}: {sentence}")
            further += [_keyword(name, default) for name, default in names.items() if name not in known]
            known |= names.keys()
        checked.__signature__ = inspect.Signature([*written, *further])  # type: ignore[attr-defined]
        owner.__init__ = checked  # type: ignore[misc]
        owner.__doc__ = "\n".join([f"{owner.__doc__}\n    Keywords, in place of options:", *lines])
        return owner

    return signed


@cache
def _own_types(construct: Any) -> dict[str, Any]:
    """The types of what a constructor takes by keyword beside the options."""
    only = {each.name for each in inspect.signature(construct).parameters.values() if each.kind is each.KEYWORD_ONLY}
    hints = get_type_hints(construct, include_extras=True) if only else {}
    return {name: hint for name, hint in hints.items() if name in only}


def _keyword(name: str, default: Any) -> inspect.Parameter:
    given = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=given)


def described(options: type[Options]) -> Iterator[tuple[dict[str, Any], str]]:
    """The keywords that make each option, with their defaults, and its sentence."""
    for each, part in parts_of(options):
        if part:
            yield from described(part)
        else:
            yield keywords_of(each), each.metadata["description"]


def as_data(value: Any, *, whole: bool = False) -> Any:
    """Options as dicts, lists and scalars, defaults too: what YAML and JSON can say.

    Args:
        whole: with the defaults of options that came later, which files are written without.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kept = [(each, getattr(value, each.name)) for each in fields_of(value)]
        return {
            each.name: as_data(x, whole=whole)
            for each, x in kept
            if whole or not each.metadata.get("later") or x != each.default
        }
    if isinstance(value, dict):
        return {key: as_data(item, whole=whole) for key, item in value.items()}
    return [as_data(item, whole=whole) for item in value] if isinstance(value, (list, tuple)) else value


def as_written(value: Any) -> Any:
    """The same without what is at its default, as a config is written; what chooses a kind stays."""
    if isinstance(value, dict):
        return {key: as_written(item) for key, item in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return as_data(value)
    kept = {each.name: (getattr(value, each.name), _default(each)) for each in fields_of(value)}
    return {name: as_written(x) for name, (x, default) in kept.items() if name == "kind" or x != default}


def _default(each: Field[Any]) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


def parts_of(cls: Any) -> list[tuple[Field[Any], type[Options] | None]]:
    """The fields, and the class of those that are parts whose keywords a constructor takes."""
    found = ((each, types_of(cls)[each.name][0], each.metadata["keywords"]) for each in fields_of(cls))
    return [
        (each, kind if keywords is None and isinstance(kind, type) and issubclass(kind, Options) else None)
        for each, kind, keywords in found
    ]


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
    if part and len(at) > 1:
        return _as_keyword(part, at[1:])
    return _named(keywords_of(each) or {each.name: None}, at[1:])


def _named(names: Mapping[str, Any], below: At) -> At:
    """The path below an option that these keywords make: from the one that gives what is there, or the first."""
    own = [name for name in names if below and name.endswith(f"_{below[0]}")]
    return (own[0], *below[1:]) if own else (next(iter(names)), *below)
