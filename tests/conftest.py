"""What every test may use: seeded draws, and parameters away from their initial values."""

from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20240305)


@pytest.fixture
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits from small products and streams, in no time."""
    from mmdit_cli.measure import ceilings, profile

    monkeypatch.setattr(ceilings, "GEMM_SHAPES", ((64, 64, 64),))
    monkeypatch.setitem(ceilings.STREAM_BYTES, "cpu", (3 << 10, 3 << 12))
    monkeypatch.setitem(ceilings.TIMED_BYTES, "cpu", 1 << 16)
    measure = profile.measure_ceilings
    monkeypatch.setattr(profile, "measure_ceilings", lambda *args, **options: measure(*args, **options, seconds=0.01))


def drawn(module: nn.Module, std: float = 0.3) -> nn.Module:
    """The module in float64 with every parameter drawn afresh: many start at 0 or 1, where faults hide."""
    module = module.double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 1
            parameter.normal_(std=std if parameter.ndim < 2 else fan_in**-0.5)
            if "norm" in name and parameter.ndim < 3 and "linear" not in name:
                parameter.add_(1)
    return module


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def padded_mask(length: int, *valid: int) -> torch.Tensor:
    """One row for each count of valid tokens, which come first."""
    return torch.arange(length) < torch.tensor(valid)[:, None]
