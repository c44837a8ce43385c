"""Numbers as people read them: three significant digits and an SI unit."""

from __future__ import annotations

import math

_SI = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
_COUNT = ("", "k", "M", "B", "T", "Q")
_BLOCKS = " ▏▎▍▌▋▊▉█"

MISSING = "-"


def number(value: float | None) -> str:
    """Three significant digits, no exponent, thousands separated: `0.0123`, `1.20`, `45.6`, `1,234`.

    `None`, which stands for a figure that was not measured, is `-`; a value that is not finite is named as it is.
    """
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    if abs(value) < 1e-6:
        return f"{value:.2e}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    if round(abs(value), decimals) >= 10 ** (3 - decimals):  # 9.999 has one digit more once rounded
        decimals = max(0, decimals - 1)
    return f"{value:,.{decimals}f}"


def _scaled(value: float | None, units: tuple[str, ...], unit: str = "") -> str:
    """`value` in the first of the units in which it has one to three digits before the point."""
    if value is None:
        return MISSING
    exponent = 0
    if math.isfinite(value):
        while exponent + 1 < len(units) and round(abs(value), 2 - _whole_digits(value)) >= 1000:
            value /= 1000
            exponent += 1
    return f"{number(value)} {units[exponent]}{unit}".rstrip()


def _whole_digits(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def quantity(value: float | None, unit: str) -> str:
    """A value in SI steps of 1000: `quantity(2.5e9, "B")` is `2.50 GB`."""
    return _scaled(value, _SI, unit)


def count(value: float | None) -> str:
    """Parameters, tokens, tensors: `768`, `12.6 M`, `2.03 B`."""
    return _scaled(value, _COUNT)


def bytes_(value: float | None) -> str:
    """Decimal bytes: `512 B`, `4.06 GB`."""
    return quantity(value, "B")


def flops(value: float | None) -> str:
    """Floating-point operations: `1.41 TFLOP`."""
    return quantity(value, "FLOP")


def rate(value: float | None, unit: str) -> str:
    """Something a second: `rate(1.2e12, "FLOP")` is `1.20 TFLOP/s`."""
    return quantity(value, f"{unit}/s")


def seconds(value: float | None) -> str:
    """A duration: `12 µs`, `3.21 ms`, `4.56 s`, `2 min 05 s`, `1 h 02 min`."""
    if not value or not math.isfinite(value):
        return _scaled(value, ("s",))
    if abs(value) >= 59.95:
        minutes, rest = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
    scales = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
    unit = next((unit for unit, scale in scales.items() if abs(value) >= scale * 0.9995), "ns")
    return f"{number(value / scales[unit])} {unit}"


def percent(share: float | None) -> str:
    """A share of one: `0.4%`, `12.3%`, `100%`."""
    if share is None or not math.isfinite(share):
        return number(share)
    text = f"{100 * share:.1f}"
    return ("100" if text == "100.0" else text) + "%"


def bar(share: float | None, width: int = 10, *, ascii_only: bool = False) -> str:
    """A horizontal bar of `share` of `width` cells, to an eighth of a cell (a whole one with `ascii_only`)."""
    if share is None or not math.isfinite(share):
        return ""
    share = min(max(share, 0.0), 1.0)
    if ascii_only:
        return "#" * round(share * width)
    whole, eighths = divmod(round(share * width * 8), 8)
    return "█" * whole + (_BLOCKS[eighths] if eighths else "")
