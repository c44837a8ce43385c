"""What every test may use: seeded draws, and parameters away from their initial values."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20240305)


@pytest.fixture
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits from small products and streams, in no time."""
    from mmdit_cli.profile import ceilings
    from mmdit_cli.profile import measurement as profile

    monkeypatch.setattr(ceilings, "GEMM_SHAPES", ((64, 64, 64),))
    monkeypatch.setitem(ceilings.STREAM_BYTES, "cpu", (3 << 10, 3 << 12))
    monkeypatch.setitem(ceilings.TIMED_BYTES, "cpu", 1 << 16)
    measure = profile.measure_ceilings
    monkeypatch.setattr(profile, "measure_ceilings", lambda *args, **options: measure(*args, **options, seconds=0.01))
