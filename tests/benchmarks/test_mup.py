"""The muP benchmark: what it keeps, and what its document says."""

from __future__ import annotations

import json
import math
from itertools import chain
from pathlib import Path

import pytest
import torch

from benchmarks.mup import document as document_module
from benchmarks.mup import transfer as transfer_module
from benchmarks.mup.document import document, transfer_plot
from benchmarks.mup.transfer import KINDS, Transfer, transfer
from mmdit_cli.output.figures import save_figure
from mmdit_cli.toy.coordinates import CoordinateCheck, Growth
from tests.support.fake_runs import named

CPU = torch.device("cpu")
CHECK = CoordinateCheck("x", [64], 5, 3, [Growth(kind, "feedforward", 0.5, False) for kind in KINDS], [])


def found(wide_best: dict[str, float]) -> Transfer:
    """Losses with their least at 0.016 for the narrow network, and elsewhere for the wide one."""
    best = {(kind, width): 0.016 if width == 64 else wide_best[kind] for kind in KINDS for width in (64, 256)}
    losses = {
        (*of, rate): [abs(math.log(rate / least)) + 0.1 + seed for seed in (0, 1)]
        for of, least in best.items()
        for rate in transfer_module.RATES
    }
    losses["standard", 256, 0.064] = [math.inf, 0.5]
    return Transfer(named("x"), "cpu", losses)


def test_a_best_rate_that_moves_is_told_from_one_that_stays(tmp_path: Path) -> None:
    result = found({"standard": 0.002, "mup": 0.008})
    assert (result.moved("standard"), result.moved("mup")) == (3, 1)
    text = document(result, CHECK)
    assert "standard: best at 0.016 at a width of 64 (loss 0.6000), at 0.002 at 256 (loss 0.6000): it moves" in text
    assert "at 0.008 at 256 (loss 0.6000): it stays within a step of the grid." in text
    assert "diverged" in text and "**0.6000 (0.1000 to 1.1000)**" in text and "| feedforward | width ^ 0.50 |" in text
    save_figure(transfer_plot(result), tmp_path / "x.png")


@pytest.mark.slow
def test_a_command_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (transfer_module, document_module):
        monkeypatch.setattr(module, "WIDTHS", (16, 64))
        monkeypatch.setattr(module, "RATES", (0.002, 0.004))
    first = transfer(tmp_path, CPU, steps=2, batch=4, seeds=1)
    (kept,) = tmp_path.glob("*.json")
    assert len(json.loads(kept.read_text())) == 6 and all(map(math.isfinite, chain(*first.losses.values())))
    monkeypatch.setattr(transfer_module, "_loss", lambda *given: pytest.fail("it was trained again"))
    assert transfer(tmp_path, CPU, steps=2, batch=4, seeds=1).losses == first.losses
