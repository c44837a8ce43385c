"""Where two configs differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from mmdit.options import as_data
from mmdit.options.values import fields_of


def differing(first: Any, second: Any, at: str = "", *, whole: bool = True) -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys in which options, or their documents, differ, with both values as `as_data` has them; None where
    one has no such key."""
    ours, theirs = _entries(first), _entries(second)
    if ours is not None and theirs is not None:
        for key in ours | theirs:
            yield from differing(ours.get(key), theirs.get(key), f"{at}.{key}" if at else str(key), whole=whole)
    elif first != second:
        yield at, as_data(first, whole=whole), as_data(second, whole=whole)


def _entries(value: Any) -> dict[Any, Any] | None:
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields_of(value)}
    return value if isinstance(value, dict) else None
