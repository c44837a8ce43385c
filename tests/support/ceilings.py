"""The machine's limits in no time, for tests of what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest


def make_quick(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Small products and streams, and none that another test has kept: `cache` is where they are."""
    from mmdit_cli.profile import ceiling_cache, ceilings

    patch.setattr(ceilings, "GEMM_SHAPES", ((64, 64, 64),))
    patch.setitem(ceilings.STREAM_BYTES, "cpu", (3 << 10, 3 << 12))
    patch.setitem(ceilings.TIMED_BYTES, "cpu", 1 << 16)
    patch.setitem(ceilings.LOOK_SECONDS, "cpu", 0.0)
    patch.setattr(ceiling_cache, "cache_folder", lambda: cache)
