"""Numbers as people write them in options."""

from __future__ import annotations

import math

from mmdit.options.numbers import as_number
from mmdit_cli.errors import UserError

SMALLEST, LARGEST = 1e-9, 1e30  # what is made of numbers between them stays finite


def read_number(text: str, option: str, *, whole: bool = False) -> float:
    """A number above 0, as `1e9`, `250_000`, `100M` or `1.62B`.

    Raises:
        UserError: it is none; the message names the option.
    """
    known = as_number(text)
    try:
        value = float(text) if known is None else float(known)
    except ValueError:
        value = math.nan
    if not SMALLEST <= value <= LARGEST or (whole and not value.is_integer()):
        wanted = f"{'a whole' if whole else 'a'} number above 0 and up to {LARGEST:g}"
        raise UserError(f"{option} {text}: expected {wanted}, such as 1e9 or 100M")
    return value


def read_share(text: str, option: str) -> float:
    """A share above 0 and up to 1, as `40%` or `0.4`.

    Raises:
        UserError: it is none; the message names the option.
    """
    digits, percent, rest = text.strip().partition("%")
    try:
        value = math.nan if rest else float(digits) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise UserError(f"{option} {text}: expected a share above 0 and up to 1, such as 40% or 0.4")
    return value


def read_size(text: str, option: str) -> int:
    """Bytes: a number, or a text such as 80GB or 24GiB.

    Raises:
        UserError: it is none; the message names the option.
    """
    from mmdit.weights.shards import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None
