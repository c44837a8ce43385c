"""What torch does with a model as a whole: compile, export, autocast, low precision, the meta device."""

from __future__ import annotations

import pytest
import torch

import mmdit
from mmdit.networks.transformer import MMDiT
from tests.support.draws import drawn, padded_mask
from tests.support.float32_networks import COND, DIMS, VARIANTS, build, call
from tests.support.marks import slow_but


def valid(outs, masks):
    """What stands at valid places: elsewhere outputs mean nothing."""
    return [x if mask is None else x[mask] for x, mask in zip(outs, masks, strict=True) if x is not None]


def whole_network():
    image = {"kind": "patches", "channels": 3, "patch": 2, "max_size": 8}
    config = dict(
        depth=1,
        modalities={
            "text": {"dim": 16, "input": {"kind": "linear", "dim": 8, "positions": "sincos"}},
            "image": {"dim": 24, "input": image, "output": {"kind": "patches", "channels": 3}},
        },
        discard=["text"],
        timestep={"frequencies": 16},
        dim_cond=COND,
        heads=2,
        dim_head=16,
    )
    return drawn(mmdit.build(config)).float()


def whole_call(length: int, height: int, width: int, batch: int = 2):
    return dict(
        inputs={"text": torch.randn(batch, length, 8), "image": torch.randn(batch, 3, height, width)},
        timestep=torch.rand(batch),
        masks={"text": padded_mask(length, *range(1, batch + 1))},
    )


@pytest.mark.parametrize("variant", slow_but(VARIANTS, "standard"))
def test_it_compiles_whole_and_once_more_for_all_other_lengths(variant):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    net, counter = build(variant, depth=1), CompileCounter()
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    frames = []
    for lengths in ((7, 5, 9), (8, 6, 10), (30, 2, 40), (9, 9, 9)):
        given = call(lengths)
        for a, b in zip(compiled(**given), net(**given), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        frames.append(counter.frame_count)
    assert frames == [1, 2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_gradients_are_the_eager_ones(variant):
    torch._dynamo.reset()
    net, given, grads = build(variant, depth=1), call(), []
    for run in (net, torch.compile(net, fullgraph=True, backend="aot_eager")):
        net.zero_grad()
        sum(x.sin().sum() for x in run(**given) if x is not None).backward()
        grads.append({name: p.grad.clone() for name, p in net.named_parameters()})
    for name, wanted in grads[0].items():
        torch.testing.assert_close(
            grads[1][name], wanted, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.slow
def test_a_whole_network_compiles_whole_and_once_more_for_all_other_sizes():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    net, counter, frames = whole_network(), CompileCounter(), []
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    for sizes in ((7, 6, 4), (9, 8, 6), (12, 4, 12), (5, 10, 8), (8, 12, 4)):
        given = whole_call(*sizes)
        wanted = net(**given)
        for name, x in compiled(**given).items():
            torch.testing.assert_close(x, wanted[name], rtol=1e-4, atol=1e-5)
        frames.append(counter.frame_count)
    assert frames == [1, 2, 2, 2]


@pytest.mark.slow
def test_a_whole_network_exports_with_any_batch_and_sizes():
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=2, max=512)
    rows, columns = (torch.export.Dim(name, min=2, max=6) for name in ("rows", "columns"))
    shapes = dict(
        inputs={"text": {0: batch, 1: length}, "image": {0: batch, 2: 2 * rows, 3: 2 * columns}},
        timestep={0: batch},
        masks={"text": {0: batch, 1: length}},
    )
    net = whole_network().eval()
    program = torch.export.export(net, (), whole_call(7, 6, 8), dynamic_shapes=shapes)
    given = whole_call(11, 8, 4, batch=3)
    torch.testing.assert_close(program.module()(**given)["image"], net(**given)["image"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "recomputed"])
@pytest.mark.slow
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


@pytest.mark.parametrize("variant", slow_but(VARIANTS, *list(VARIANTS)[::3]))
def test_autocast_and_bfloat16_stay_near_float32(variant):
    """Outputs to 3 %, the gradient as a whole to 8 %: bfloat16 has 3 digits, and a chain of a dozen products."""

    def run(net, given, **autocast):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, **autocast):
            outs = valid(net(**given), given["modality_masks"])
        torch.manual_seed(5)
        sum((x.float() * torch.randn_like(x.float())).sum() for x in outs).backward()
        return outs, torch.cat([p.grad.flatten().float() for p in net.parameters() if p.grad is not None])

    def share(a, b):
        return ((a.float() - b).norm() / b.norm()).item()

    net, given = build(variant), call()
    exact, gradient = run(net, given, enabled=False)
    mixed, mixed_gradient = run(net, given)
    half = {name: x.bfloat16() if name == "time_cond" else x for name, x in given.items()}
    half["modality_tokens"] = tuple(x.bfloat16() for x in given["modality_tokens"])
    low, low_gradient = run(net.bfloat16(), half, enabled=False)
    assert all(x.dtype == torch.bfloat16 for x in low)
    for outs, grad in ((mixed, mixed_gradient), (low, low_gradient)):
        assert all(share(a, b) < 0.03 for a, b in zip(outs, exact, strict=True))
        assert share(grad, gradient) < 0.08


@pytest.mark.parametrize("variant", slow_but(VARIANTS, *list(VARIANTS)[::3]))
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
