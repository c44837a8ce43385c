"""The same numbers on a GPU. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from test_compile import COND, VARIANTS, build, call

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def moved(given, device, dtype):
    return dict(
        modality_tokens=tuple(x.to(device, dtype) for x in given["modality_tokens"]),
        modality_masks=tuple(None if m is None else m.to(device) for m in given["modality_masks"]),
        time_cond=given["time_cond"].to(device, dtype),
    )


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_and_gradients_are_the_cpus(variant, dtype):
    net, given = build(variant), call()
    outs = [x for x in net.double()(**moved(given, "cpu", torch.float64)) if x is not None]
    got = [x for x in net.to("cuda", dtype)(**moved(given, "cuda", dtype)) if x is not None]
    sum(x.float().square().mean() for x in got).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    for a, b in zip(got, outs, strict=True):
        assert ((a.cpu().double() - b).norm() / b.norm()).item() < BOUNDS[dtype]


@pytest.mark.parametrize("variant", ["standard", "adaptive by token", "manifold"])
def test_compiled_outputs_are_the_eager_ones(variant):
    net = build(variant).cuda().eval()
    given = moved(call((64, 32, 128)), "cuda", torch.float32)
    with torch.no_grad():
        for a, b in zip(torch.compile(net, fullgraph=True)(**given), net(**given), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_nothing_in_a_forward_pass_waits_for_the_device():
    net, given = build("standard").cuda().eval(), moved(call(), "cuda", torch.float32)
    with torch.no_grad():
        net(**given)
        torch.cuda.set_sync_debug_mode("error")
        try:
            net(**given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert given["time_cond"].shape[1] == COND
