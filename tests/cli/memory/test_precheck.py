"""What does not fit is refused with what it needs, and with changes that a user would make."""

from __future__ import annotations

import re

import pytest
import torch

from mmdit_cli.errors import UserError
from mmdit_cli.memory import demand, precheck
from mmdit_cli.memory.estimate import estimate
from mmdit_cli.memory.training import TRAINED
from tests.support.marks import slow_but
from tests.support.small_configs import config

CPU = torch.device("cpu")
SMALL = config({"batch_size": 4, "tokens": {"text": 4, "image": 1024}})


def refused(monkeypatch, free: int, what: str = "profile", dtype: torch.dtype = torch.float32) -> str:
    monkeypatch.setattr(precheck, "free_memory", lambda device: free)
    with pytest.raises(UserError) as error:
        precheck.check_fits(SMALL, "train", dtype, CPU, what)
    return str(error.value)


@pytest.mark.parametrize("dtype", slow_but([torch.float32, torch.bfloat16], torch.bfloat16))
def test_what_is_refused_is_what_is_estimated(monkeypatch, dtype):
    """Not more: a model is built in its dtype. That estimates are what is measured, `test_estimate.py` holds."""
    peak = estimate(SMALL, "train", dtype, CPU).peak
    monkeypatch.setattr(precheck, "free_memory", lambda device: peak)
    precheck.check_fits(SMALL, "train", dtype, CPU)
    for ways in ("changed", "shrunk"):  # each is an estimate; the next test holds them
        monkeypatch.setattr(demand, ways, lambda *given, **named: {})
    assert refused(monkeypatch, peak - 1, dtype=dtype).endswith("no smaller batch or resolution would do")


@pytest.mark.slow
def test_every_remedy_is_one_that_fits_and_has_its_figure(monkeypatch):
    peak = estimate(SMALL, "train", torch.float32, CPU).peak
    message = refused(monkeypatch, int(peak * 0.7))
    assert re.search(r"--set run.batch_size=2 \(", message) and "--dtype bf16 (" in message
    assert "--set model.checkpoint_activations=true (" in message and re.search(r"tokens.image=\d+ \(", message)
    assert "depth" not in message and "--mode" not in message
    assert "it would fit with --set run.tokens.image=" in refused(monkeypatch, int(peak * 0.12))


@pytest.mark.slow
def test_a_toys_training_is_that_of_float32_weights_and_their_average(monkeypatch):
    peak = estimate(SMALL, "train", torch.bfloat16, CPU, training=TRAINED).peak
    monkeypatch.setattr(precheck, "free_memory", lambda device: peak)
    precheck.check_fits(SMALL, "train", torch.bfloat16, CPU, "train-toy")
    assert "--set train.batch_size=" in refused(monkeypatch, peak - 1, "train-toy", torch.bfloat16)
