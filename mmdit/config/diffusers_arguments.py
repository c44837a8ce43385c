"""How an argument of a class of diffusers is a key of our config, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mmdit.options import ModelOptions

__all__ = [
    "Argument",
    "DiffusersClass",
    "choice",
    "fixed",
    "key",
    "out_channels",
    "part",
    "same",
    "switch",
    "unread",
    "value_of",
]

Arguments = Mapping[str, Any]


class Argument(NamedTuple):
    """An argument: its default, the keys of ours that it gives (from it and all others), and its value of ours.

    `ours` raises ValueError where we have no such network, `theirs` where they have none; what is null is left out.
    """

    default: Any
    ours: Callable[[Any, Arguments], dict[str, Any]]
    theirs: Callable[[ModelOptions], Any]
    chooses: bool = False  # between the configs that are taken for a base


class DiffusersClass(NamedTuple):
    """A class of diffusers, as `_class_name` in a config.json names it.

    `bases` are the shipped configs of it, with the arguments that choose between them; `derived` are keys of ours that
    follow from several arguments.
    """

    bases: Mapping[str, Arguments]
    arguments: Mapping[str, Argument]
    derived: Callable[[Arguments], dict[str, Any]] = lambda arguments: {}


def value_of(options: Any, key: str) -> Any:
    """What options hold at a dotted key; None where they do not reach so far."""
    for part in key.split("."):
        options = options.get(part) if isinstance(options, Mapping) else getattr(options, part, None)
    return list(options) if isinstance(options, tuple) else options


def key(default: Any, *keys: str, times: int = 1) -> Argument:
    """A value that our keys have too; theirs is so many `times` as large."""

    def ours(value: Any, _: Arguments) -> dict[str, Any]:
        if times > 1 and value % times:
            raise ValueError(f"expected a multiple of {times}, got {value}")
        value = list(value) if isinstance(value, (list, tuple)) else value // times if times > 1 else value
        return dict.fromkeys(keys, value)

    def theirs(config: ModelOptions) -> Any:
        value = value_of(config, keys[0])
        return value * times if times > 1 else value

    return Argument(default, ours, theirs)


def fixed(value: Any, *also: Any) -> Argument:
    """A value that all of our networks have; or another that means the same."""

    def ours(got: Any, _: Arguments) -> dict[str, Any]:
        if (list(got) if isinstance(got, (list, tuple)) else got) not in (value, *also):
            raise ValueError(f"expected {value}, got {got}")
        return {}

    return Argument(value, ours, lambda config: value)


def unread(default: Any, theirs: Callable[[ModelOptions], Any] | None = None) -> Argument:
    """What gives no key of ours by itself."""
    return Argument(default, lambda value, _: {}, theirs or (lambda config: default))


def same(default: Any, wanted: Callable[[Arguments], Any], theirs: Callable[[ModelOptions], Any]) -> Argument:
    """What our networks have equal to what others say."""

    def ours(value: Any, arguments: Arguments) -> dict[str, Any]:
        if value != wanted(arguments):
            raise ValueError(f"expected {wanted(arguments)}, as others say, got {value}")
        return {}

    return Argument(default, ours, theirs)


def part(default: bool, key: str, **options: Any) -> Argument:
    """Whether the network has a part, of these options."""
    return Argument(
        default, lambda value, _: {key: options if value else None}, lambda config: value_of(config, key) is not None
    )


def choice(default: Any, key: str, values: Mapping[Any, Any]) -> Argument:
    """A value that is another one in ours."""

    def ours(value: Any, _: Arguments) -> dict[str, Any]:
        if value not in values:
            raise ValueError(f"expected {' or '.join(map(str, values))}, got {value}")
        return {key: values[value]}

    return Argument(
        default, ours, lambda config: {mine: theirs for theirs, mine in values.items()}[value_of(config, key)]
    )


def switch(default: Any) -> Argument:
    """What chooses the base, and is written as the base has it."""
    return Argument(default, lambda value, _: {}, lambda config: default, chooses=True)


def out_channels(key: str, times: int = 1) -> Argument:
    """The channels that are drawn, which are those that come in where it says nothing."""

    def ours(value: Any, arguments: Arguments) -> dict[str, Any]:
        return {key: (arguments["in_channels"] if value is None else value) // times}

    return Argument(None, ours, lambda config: value_of(config, key) * times)
