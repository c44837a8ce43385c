"""Numbers as tables print them and as the field writes them: `100M`, `1.62 B`, `17,524,736`, `1_000`, `8/3`."""

from __future__ import annotations

import re
from decimal import Decimal

_POWERS = {"": 0, "K": 3, "M": 6, "G": 9, "B": 9, "T": 12, "P": 15, "E": 18}
_DIGITS = r"(?:\d{1,3}(?:[,_]\d{3})+|\d{1,30})(?:\.\d{1,30})?"
_SCALED = re.compile(rf"({_DIGITS}) ?([kKMGBTPE]?)", re.ASCII)
_RATIO = re.compile(rf"({_DIGITS}) ?/ ?({_DIGITS})", re.ASCII)


def as_number(text: str) -> int | float | None:
    """The number that a text stands for, whole where it is; None where it is none in these forms."""
    if match := _SCALED.fullmatch(text.strip()):
        value = _decimal(match[1]) * 10 ** _POWERS[match[2].upper()]
    elif match := _RATIO.fullmatch(text.strip()):
        over, under = map(_decimal, match.groups())
        if not under:
            return None
        return int(over / under) if over % under == 0 else float(over) / float(under)
    else:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace("_", ""))
