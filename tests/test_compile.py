"""What torch does with a model as a whole: compile, export, autocast, low precision, the meta device."""

from __future__ import annotations

import pytest
import torch
from conftest import drawn, padded_mask
from torch._dynamo.testing import CompileCounter

from mmdit.mmdit_generalized_pytorch import MMDiT

DIMS, COND = (24, 16, 32), 12
VARIANTS = {
    "standard": dict(qk_rmsnorm=True),
    "adaptive by token": dict(num_adaptive_weights=2),
    "adaptive by sample": dict(num_adaptive_weights=2, gating="sample", bias=True),
    "soft-clamped": dict(softclamp=True),
    "hyper-connections": dict(num_residual_streams=2, residual="hyper_connections"),
    "manifold": dict(num_residual_streams=2),
    "registers": dict(num_register_tokens=2),
    "discard": dict(discard=(0,), dual_blocks=(0,)),
    "recomputed": dict(checkpoint_activations=True),
}
QUICK = ("standard", "adaptive by token")


def build(variant: str, depth: int = 2) -> MMDiT:
    net = MMDiT(depth=depth, dim_modalities=DIMS, heads=2, dim_head=16, dim_cond=COND, **VARIANTS[variant])
    return drawn(net).float()


def call(lengths=(7, 5, 9), batch=2, masked=True, dtype=torch.float32):
    tokens = tuple(torch.randn(batch, n, d, dtype=dtype) for n, d in zip(lengths, DIMS, strict=True))
    masks = (padded_mask(lengths[0], *range(1, batch + 1)), None, None) if masked else None
    return dict(modality_tokens=tokens, modality_masks=masks, time_cond=torch.randn(batch, COND, dtype=dtype))


def some_slow(variants):
    return [v if v in QUICK else pytest.param(v, marks=pytest.mark.slow) for v in variants]


@pytest.mark.parametrize("variant", some_slow(VARIANTS))
def test_it_compiles_whole_and_once_more_for_all_other_lengths(variant):
    torch._dynamo.reset()
    net, counter = build(variant, depth=1), CompileCounter()
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    frames = []
    for lengths in ((7, 5, 9), (8, 6, 10), (12, 20, 3), (30, 2, 40), (9, 9, 9)):
        given = call(lengths)
        for a, b in zip(compiled(**given), net(**given), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        frames.append(counter.frame_count)
    assert frames == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("variant", some_slow(v for v in VARIANTS if v != "recomputed"))
def test_it_exports_with_any_batch_and_lengths(variant):
    net = build(variant, depth=1).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    lengths = [torch.export.Dim(f"length_{i}", min=2, max=4096) for i in range(3)]
    shapes = dict(
        modality_tokens=tuple({0: batch, 1: n} for n in lengths),
        modality_masks=({0: batch, 1: lengths[0]}, None, None),
        time_cond={0: batch},
    )
    program = torch.export.export(net, (), call(), dynamic_shapes=shapes)
    given = call((11, 3, 20), batch=3)
    for a, b in zip(program.module()(**given), net(**given), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_and_bfloat16_stay_near_float32(variant):
    net, given = build(variant), call()
    exact = [x for x in net(**given) if x is not None]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [x for x in net(**given) if x is not None]
    sum(x.float().square().sum() for x in mixed).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    half = {"modality_masks": given["modality_masks"], "time_cond": given["time_cond"].bfloat16()}
    low = net.bfloat16()(modality_tokens=tuple(x.bfloat16() for x in given["modality_tokens"]), **half)
    low = [x for x in low if x is not None]
    for reference, a, b in zip(exact, mixed, low, strict=True):
        assert b.dtype == torch.bfloat16
        for x in (a, b):
            assert ((x.float() - reference).norm() / reference.norm()).item() < 0.03


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_runs_on_the_meta_device(variant):
    with torch.device("meta"):
        net = MMDiT(
            depth=1,
            dim_modalities=DIMS,
            heads=2,
            dim_head=16,
            dim_cond=COND,
            **(VARIANTS[variant] | {"dual_blocks": ()}),
        )
        tokens = tuple(torch.empty(2, n, d) for n, d in zip((7, 5, 9), DIMS, strict=True))
        outs = net(modality_tokens=tokens, time_cond=torch.empty(2, COND))
    assert all(o.shape == x.shape and o.is_meta for o, x in zip(outs, tokens, strict=True) if o is not None)
