"""What stands for a value that was wrong or missing, so that rules about everything else can still be asked."""

from __future__ import annotations

from typing import Any


class UnreadError(Exception):
    """A rule depends on a value that is wrong or missing."""


def _depends(*arguments: Any) -> Any:
    raise UnreadError


_ASKED = (
    "getattr bool len iter contains getitem hash str repr format call int float index abs neg "
    "eq ne lt le gt ge add radd sub rsub mul rmul mod rmod floordiv rfloordiv truediv rtruediv pow rpow"
)
# all but `is` ends in UnreadError, isinstance too, which asks for the class
UNREAD: Any = type(
    "Unread", (), {f"__{name}__": _depends for name in _ASKED.split()} | {"__class__": property(_depends)}
)()
