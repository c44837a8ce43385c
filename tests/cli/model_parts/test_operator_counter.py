"""What an operator costs, and which ones stop the count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmdit.layers.attention import FusedAttention
from mmdit_cli.model_parts.components import OTHER
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD
from mmdit_cli.model_parts.operator_counter import OpRecorder, UncountedOperator
from tests.support.small_configs import config


def recorded(run, backward=lambda out: None) -> OpRecorder:
    with OpRecorder([]) as recorder, FlopCounterMode(display=False):
        out = run()
        recorder.follower.start(BACKWARD)
        backward(out)
    return recorder


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta", requires_grad=True)


@pytest.mark.parametrize(
    "run",
    [
        lambda: torch.mv(meta(3, 4), meta(4)),
        lambda: torch.dot(meta(4), meta(4)),
        lambda: torch.addr(meta(3, 4), meta(3), meta(4)),
        lambda: torch.cdist(meta(3, 4), meta(5, 4)),
        lambda: torch.linalg.solve_triangular(meta(4, 4), meta(4, 2), upper=True),
        lambda: torch.fft.fft(meta(8)),
    ],
)
def test_an_operator_that_multiplies_and_has_no_formula_stops_the_count(run):
    with pytest.raises(UncountedOperator, match="no formula"):
        recorded(run)


def test_an_operator_of_someone_elses_stops_the_count():
    @torch.library.custom_op("mmdit_test::blur", mutates_args=())
    def blur(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @blur.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    with pytest.raises(UncountedOperator, match="mmdit_test::blur is no operator of torch"):
        recorded(lambda: blur(meta(3)))


def test_a_model_that_runs_such_an_operator_is_refused(monkeypatch):
    monkeypatch.setattr(
        FusedAttention, "forward", lambda self, q, k, v, mask=None: v * torch.mv(q[0, 0], k[0, 0, 0])[0]
    )
    with pytest.raises(UncountedOperator, match=r"aten::\w*mv multiplies matrices"):
        count_flops(config())


B, N, D = 2, 3, 8


@pytest.mark.parametrize(
    ("run", "kind", "flops"),
    [
        (lambda x: x.softmax(-1), "softmax", 5 * B * N * D),
        (lambda x: F.layer_norm(x, (D,)), "layer norm", 5 * B * N * D),
        (lambda x: F.layer_norm(x, (D,), meta(D), meta(D)), "layer norm", 7 * B * N * D),
        (lambda x: F.gelu(x), "activation", B * N * D),
        (lambda x: x + meta(D), "arithmetic", B * N * D),
        (lambda x: torch.addcmul(x, meta(B, 1, D), x), "arithmetic", 2 * B * N * D),
        (lambda x: (x + x).addcmul_(meta(B, 1, D), x), "arithmetic", 3 * B * N * D),
        (lambda x: x.mean(-1), "reduction", B * N * D),
        (lambda x: x.sum(), "reduction", B * N * D),
    ],
)
def test_elementwise_work_is_what_the_convention_says(run, kind, flops):
    assert recorded(lambda: run(meta(B, N, D))).work == {((FORWARD, OTHER), kind): flops}


def test_moving_picking_and_comparing_numbers_is_no_work():
    x = meta(B, N, D)
    recorder = recorded(lambda: (x.clone().transpose(0, 1).reshape(-1).to(torch.float64), torch.cat([x, x]), x > 0))
    assert not recorder.work and not recorder.operators


def test_a_products_backward_is_no_elementwise_work_and_an_activations_is():
    gradient = torch.empty(4, 6, device="meta")
    recorder = recorded(lambda: F.gelu(meta(4, 5) @ meta(5, 6)), lambda out: out.backward(gradient))
    forward, backward = (FORWARD, OTHER), (BACKWARD, OTHER)
    assert recorder.flops == {forward: 2 * 4 * 5 * 6, backward: 2 * 2 * 4 * 5 * 6}
    assert recorder.work == {(forward, "activation"): 24, (backward, "activation"): 24}
