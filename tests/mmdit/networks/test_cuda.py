"""The same numbers on a GPU. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

import mmdit
from benchmarks.families.comparison import random_call
from benchmarks.families.diffusers_networks import FAMILIES
from mmdit.packing import Packing
from tests.support.draws import drawn
from tests.support.families import packing_of
from tests.support.float32_networks import VARIANTS, build, call

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def moved(given, device, dtype):
    return dict(
        modality_tokens=tuple(x.to(device, dtype) for x in given["modality_tokens"]),
        modality_masks=given["modality_masks"]
        and tuple(m if m is None else m.to(device) for m in given["modality_masks"]),
        time_cond=given["time_cond"].to(device, dtype),
    )


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_and_gradients_are_the_cpus(variant, dtype):
    net, given = build(variant), call()

    def run(device, dtype):
        net.to(device, dtype).zero_grad()
        outs = [x for x in net(**moved(given, device, dtype)) if x is not None]
        sum((x.float() * torch.arange(x.numel(), device=device).sin().view_as(x)).sum() for x in outs).backward()
        grads = [p.grad.flatten().cpu().double() for p in net.parameters() if p.grad is not None]
        return [x.detach().cpu().double() for x in outs], torch.cat(grads)

    wanted, gradient = run("cpu", torch.float64)
    got, got_gradient = run("cuda", dtype)
    for a, b in zip(got, wanted, strict=True):
        assert ((a - b).norm() / b.norm()).item() < BOUNDS[dtype]
    assert ((got_gradient - gradient).norm() / gradient.norm()).item() < 3 * BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_without_a_valid_token_leave_everything_finite(variant, dtype):
    net, given = build(variant).to("cuda", dtype), moved(call(), "cuda", dtype)
    masks = [torch.ones(x.shape[:2], dtype=torch.bool, device="cuda") for x in given["modality_tokens"]]
    for mask in masks:
        mask[0] = False
    outs = [x for x in net(**given | {"modality_masks": masks}) if x is not None]
    sum(x.float().square().mean() for x in outs).backward()
    assert all(x.isfinite().all() for x in outs)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_without_masks_the_flash_kernel_serves(dtype):
    net, given = build("standard").to("cuda", dtype), moved(call(masked=False), "cuda", dtype)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where a mask, or anything else, excludes it
        net(**given)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_autocast_stays_near_float32(dtype):
    net, given = build("standard").cuda(), moved(call(), "cuda", torch.float32)
    wanted = net(**given)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        got = net(**given)
    for a, b in zip(got, wanted, strict=True):
        assert ((a.float() - b).norm() / b.norm()).item() < BOUNDS[dtype]


@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_outputs_are_the_eager_ones(variant):
    net = build(variant).cuda().eval()
    given = moved(call((64, 32, 128)), "cuda", torch.float32)
    with torch.no_grad():
        torch._dynamo.reset()
        for a, b in zip(torch.compile(net, fullgraph=True)(**given), net(**given), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_in_a_forward_pass_waits_for_the_device(variant):
    net, given = build(variant).cuda().eval(), moved(call(), "cuda", torch.float32)
    with torch.no_grad():
        net(**given)
        torch.cuda.set_sync_debug_mode("error")
        try:
            net(**given)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_run_is_the_padded_one_at_valid_positions(dtype):
    from mmdit.networks.transformer import MMDiT
    from tests.support.draws import drawn

    net = drawn(MMDiT(depth=2, dim_modalities=(64, 48), dim_cond=16, heads=2, dim_head=32, qk_rmsnorm=True))
    net = net.to("cuda", dtype)
    xs = [torch.randn(3, n, d, device="cuda", dtype=dtype) for n, d in ((7, 64), (9, 48))]
    cond = torch.randn(3, 16, device="cuda", dtype=dtype)
    masks = [
        torch.arange(n, device="cuda") < torch.tensor(valid, device="cuda")[:, None]
        for n, valid in ((7, (7, 2, 0)), (9, (1, 9, 5)))
    ]
    outs = []
    for varlen in (False, True):
        net.varlen = varlen
        outs.append(net(modality_tokens=xs, modality_masks=masks, time_cond=cond))
    tolerance = dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else dict(rtol=3e-2, atol=3e-2)
    for padded, packed, mask in zip(*outs, masks, strict=True):
        torch.testing.assert_close(packed[mask], padded[mask], **tolerance)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_network_is_captured_in_a_graph(family, packed):
    net = drawn(mmdit.build(family.small_config())).to("cuda", torch.bfloat16).eval()

    def moved(x):  # times and scales stay as wide as they are
        return x.to("cuda", torch.bfloat16 if x.ndim > 1 and x.is_floating_point() else x.dtype)

    given = tree_map_only(torch.Tensor, moved, random_call(family))
    length = given["inputs"]["text"].shape[1]
    masks = {"text": torch.arange(length, device="cuda") < torch.tensor([[4], [length]], device="cuda")}
    given["masks"] = packing_of(net, **given | {"masks": masks}) if packed else masks
    inputs = given.pop("inputs")
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            net(inputs, **given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = net(inputs, **given)[family.drawn]
        for x in inputs.values():
            x.normal_()
        graph.replay()
        torch.testing.assert_close(captured, net(inputs, **given)[family.drawn], rtol=3e-2, atol=3e-2)


def test_a_packed_block_does_not_wait_for_the_device():
    from mmdit.networks.transformer import MMDiTBlock

    block = MMDiTBlock(dim_modalities=(64, 64), dim_cond=16, heads=2, dim_head=32).to("cuda", torch.bfloat16)
    masks = [torch.arange(7, device="cuda") < torch.tensor([[3], [7]], device="cuda"), None]
    packing = Packing.from_masks(masks, [7, 9], 2)
    xs = [torch.randn(1, n, 64, device="cuda", dtype=torch.bfloat16) for n in (10, 18)]
    cond = torch.randn(2, 16, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        block(modality_tokens=xs, time_cond=cond, packing=packing)  # makes the offsets, which it keeps
        torch.cuda.set_sync_debug_mode("error")
        try:
            block(modality_tokens=xs, time_cond=cond, packing=packing)
        finally:
            torch.cuda.set_sync_debug_mode("default")
