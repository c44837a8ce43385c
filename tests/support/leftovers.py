"""Whether models of before are still in memory when the next one is built."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def models_left(monkeypatch: pytest.MonkeyPatch, module: Any) -> Iterator[list[int]]:
    """For each call of `module.build`, how many of the models that it made before are alive. The garbage collector runs
    where it is told to, and not by chance."""
    build, left = module.build, []
    made: list[weakref.ref[Any]] = []

    def watched(config: Any, **options: Any) -> Any:
        left.append(sum(model() is not None for model in made))
        model = build(config, **options)
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(module, "build", watched)
    gc.disable()
    try:
        yield left
    finally:
        gc.enable()
