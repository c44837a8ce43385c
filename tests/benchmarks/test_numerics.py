"""How exact the dtypes are: beside float64 at any depth, at large logits, over long sequences; the same bits again."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.numerics import variants as numerics
from benchmarks.numerics.rounding import DEEP, DTYPES, bound, relative_error
from benchmarks.numerics.variants import VARIANTS
from mmdit import JointAttention
from mmdit.layers.attention import ExplicitAttention, FusedAttention
from tests.support import oracles
from tests.support.draws import randn
from tests.support.marks import slow_but

ATTENTIONS = {"fused": FusedAttention(), "explicit": ExplicitAttention()}
attentions = pytest.mark.parametrize("attend", ATTENTIONS.values(), ids=ATTENTIONS)
dtypes = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
LONG = 65_536

# ----------------------------------------------------------------------------------------------- beside float64


@pytest.mark.parametrize("dtype", slow_but(DTYPES.values(), torch.bfloat16), ids=DTYPES)
@pytest.mark.parametrize("variant", slow_but(VARIANTS, *list(VARIANTS)[::4]))
def test_two_layers_are_within_their_bound_of_float64(variant, dtype):
    assert relative_error(variant, 2, dtype, seed=0) < bound(variant, 2, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_48_layers_are_within_their_bound_of_float64(variant, dtype):
    assert relative_error(variant, DEEP, dtype, seed=0) < bound(variant, DEEP, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_three_bits_less_in_the_residual_alone_are_more_than_the_bound(dtype, monkeypatch):
    from mmdit.layers.residuals import PlainDepth

    def coarse(self, x, out, gate=None):
        step = 8 * torch.finfo(dtype).eps if x.dtype == dtype else 0
        total = torch.addcmul(x, gate, out)
        return total * (1 + step * (torch.rand_like(total) - 0.5)) if step else total

    monkeypatch.setattr(PlainDepth, "forward", coarse)
    assert relative_error("standard", 2, dtype, seed=0) > bound("standard", 2, dtype)


@pytest.mark.parametrize("variant", ["qk norm", "manifold", "parallel single stream", "adaptive by token"])
def test_features_in_the_thousands_do_not_leave_the_range_of_float16(variant):
    """Trained transformers have a few such features; squares of theirs, 16 million, are beyond 65,504."""
    net, given = numerics.build(variant, 2).half(), numerics.arguments(variant, torch.float16)
    for x in given["modality_tokens"]:
        x[..., :2] *= 4000
        x.requires_grad_()
    exact = numerics.build(variant, 2)
    exact.load_state_dict(net.state_dict())
    outs = net(**given)
    wanted = exact(**numerics.cast(given, torch.float64))
    for got, right in zip(outs, wanted, strict=True):
        assert ((got - right).norm() / right.norm()) < bound(variant, 2, torch.float16)
    (sum(out.float().square().mean() for out in outs)).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


# ------------------------------------------------------------------------------------------------- large logits


def one_of(scale: float, dtype: torch.dtype, n: int = 16, dim: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Queries that meet key i + 1 at a logit of `scale` and all others at 0, and values."""
    keys = torch.eye(n, dim) * (scale * dim**0.5) ** 0.5
    q, k, v = keys.roll(-1, 0), keys, torch.randn(n, dim)
    return tuple(x.to(dtype)[None, None].requires_grad_() for x in (q, k, v))


@dtypes
@attentions
def test_a_logit_of_ten_thousand_takes_the_value_of_its_key(attend, dtype):
    q, k, v = one_of(1e4, dtype)
    out = attend(q, k, v)
    out.float().square().sum().backward()
    assert torch.equal(out, v.roll(-1, 2))
    assert torch.equal(v.grad, 2 * v) and all(x.grad.abs().max() < 1e-2 for x in (q, k))  # of entries of 200


@dtypes
def test_the_fused_attention_takes_logits_that_float16_cannot_hold(dtype):
    q, k, v = one_of(1e6, dtype)
    out = FusedAttention()(q, k, v)
    out.float().square().sum().backward()
    assert torch.equal(out, v.roll(-1, 2)) and all(x.grad.isfinite().all() for x in (q, k, v))


@dtypes
@attentions
def test_a_logit_of_minus_ten_thousand_leaves_its_key_out(attend, dtype):
    q, k, v = one_of(1e4, dtype)
    others = (v.double().sum(2, keepdim=True) - v.double().roll(-1, 2)) / (v.shape[2] - 1)
    out = attend(-q, k, v)
    assert (out - others).norm() / others.norm() < 4 * torch.finfo(dtype).eps
    out.float().square().sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@dtypes
@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_a_soft_clamp_holds_what_lies_beyond_it_at_its_value(scale, dtype):
    """Every logit is 0 or the clamp's 3, also where float16 can't hold it before the clamp."""
    q, k, v = one_of(scale, dtype)
    out = ExplicitAttention(softclamp_value=3.0)(q, k, v)
    high, n = math.exp(3), v.shape[2]
    wanted = (v.double().sum(2, keepdim=True) + (high - 1) * v.double().roll(-1, 2)) / (high + n - 1)
    assert (out - wanted).norm() / wanted.norm() < 8 * torch.finfo(dtype).eps
    out.float().square().sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v)) and v.grad.any()


@pytest.mark.parametrize("flash", [None, False], ids=["fused", "explicit"])
@dtypes
def test_with_a_qk_norm_the_size_of_the_tokens_does_not_reach_the_logits(dtype, flash):
    """Without it, the explicit logits of these tokens would be a million times as large and leave float16."""
    net = JointAttention(dim_inputs=[16, 16], heads=2, dim_head=16, qk_rmsnorm=True, flash_attn=flash).to(dtype)
    xs = [(torch.randn(2, n, 16) + 1).to(dtype) for n in (3, 5)]
    larger = [(x * 1024).requires_grad_() for x in xs]
    outs = net(larger)
    for out, small in zip(outs, net(xs), strict=True):
        torch.testing.assert_close(out / 1024, small, rtol=0, atol=8 * torch.finfo(dtype).eps)
    sum(out.float().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters()) and all(x.grad.isfinite().all() for x in larger)


# ---------------------------------------------------------------------------------------------- long sequences


def attention_in_chunks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, chunk: int = 4096) -> Tensor:
    """In float64, from sums over chunks of keys; small logits need no maximum."""
    q, total, weighted = q.double() * q.shape[-1] ** -0.5, 0.0, 0.0
    for i in range(0, k.shape[2], chunk):
        shares = (q @ k[:, :, i : i + chunk].double().mT).exp()
        if mask is not None:
            shares = shares * mask[:, None, None, i : i + chunk]
        total, weighted = total + shares.sum(-1, keepdim=True), weighted + shares @ v[:, :, i : i + chunk].double()
    return weighted / total


def test_the_oracle_in_chunks_is_attention():
    q, k, v = randn(2, 2, 3, 8), randn(2, 2, 20, 8), randn(2, 2, 20, 8)
    wanted = oracles.attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    torch.testing.assert_close(attention_in_chunks(q, k, v, chunk=7), wanted)


@torch.no_grad()
@pytest.mark.parametrize("masked", slow_but([False, True], True), ids=["whole", "masked"])
@pytest.mark.parametrize("dtype", slow_but(DTYPES.values(), torch.bfloat16), ids=DTYPES)
@pytest.mark.parametrize("attend", slow_but(ATTENTIONS.values(), ATTENTIONS["fused"]), ids=ATTENTIONS)
def test_one_block_of_queries_over_65536_keys_is_within_the_bound_of_a_layer(attend, dtype, masked):
    q, k, v = (torch.randn(1, 2, n, 16).to(dtype) for n in (128, LONG, LONG))
    mask = torch.arange(LONG)[None] % 3 > 0 if masked else None
    wanted = attention_in_chunks(q, k, v, mask)
    error = float((attend(q, k, v, mask) - wanted).norm() / wanted.norm())
    assert error < bound("standard", 1, dtype)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_discarded_modality_may_be_65536_tokens_long(dtype):
    net = JointAttention(dim_inputs=[16, 16], heads=2, dim_head=16, discard=[1]).to(dtype)
    xs = [torch.randn(1, n, 16).to(dtype) for n in (128, LONG)]
    exact = JointAttention(dim_inputs=[16, 16], heads=2, dim_head=16, discard=[1]).double()
    exact.load_state_dict(net.state_dict())
    heads = [x.transpose(1, 2) for i in (0, 1) for x in exact.to_qkv[i](xs[i].double())]
    q, k, v = heads[0], torch.cat([heads[1], heads[3]], 2), torch.cat([heads[2], heads[4]], 2)
    wanted = exact.to_out[0](attention_in_chunks(q, k, v).transpose(1, 2))
    out, none = net(xs)
    assert none is None and (out - wanted).norm() / wanted.norm() < bound("standard", 1, dtype)
