"""Marks that several tests share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Parameters of which all but a few are left to `-m slow`.

    Raises:
        ValueError: a quick one is not among them, so that none would be left in the default run.
    """
    values = list(values)
    if missing := [value for value in quick if value not in values]:
        raise ValueError(f"not among the parameters: {missing}")
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
