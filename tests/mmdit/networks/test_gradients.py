"""Gradients of every kind of block beside numerical ones, and the gradients of gradients."""

from __future__ import annotations

import pytest
import torch

from mmdit import JointAttention
from mmdit.layers.residual_kernels import sinkhorn_knopp, write_streams
from mmdit.layers.residuals import HyperConnection
from mmdit.networks.transformer import MMDiT, MMDiTBlock
from tests.support.draws import drawn, padded_mask, randn
from tests.support.marks import slow_but

TINY = dict(dim_modalities=(3, 2), heads=2, dim_head=4, dim_cond=3)
MASKS = (padded_mask(2, 1, 2), None)
SINGLE = dict(dim_modalities=(3, 3), single_stream_depth=1)
BLOCKS = {
    "standard": {},
    "unconditioned": dict(dim_cond=None),
    "qk norm, biases": dict(qk_rmsnorm=True, bias=True),
    "adaptive by token": dict(num_adaptive_weights=2),
    "adaptive by sample": dict(num_adaptive_weights=2, gating="sample"),
    "soft clamp": dict(softclamp=True, softclamp_value=1.0),
    "hyper-connections": dict(num_residual_streams=2, residual="hyper_connections"),
    "manifold": dict(num_residual_streams=2),
    "nested": dict(residual="nested"),
    "dual": dict(dual_blocks=(0,)),
    "discard": dict(discard=(0,)),
    "registers": dict(num_register_tokens=1),
    "swiglu": dict(ff_kwargs=dict(kind="swiglu", mult=2)),
    "rotary": dict(rotary_axes=(2, 2)),
    "parallel": SINGLE,
    "parallel, shared modulation": SINGLE | dict(shared_modulation=True),
    "sequential, streams": SINGLE | dict(single_stream="sequential", num_residual_streams=2),
    "packed": dict(varlen=True),
    "packed, adaptive by sample": dict(varlen=True, num_adaptive_weights=2, gating="sample", rotary_axes=(2, 2)),
}


def as_function(options, **more):
    """A tiny network of one block of each kind as a function of its tokens, conditioning and all its parameters."""
    options = TINY | options | more
    net = drawn(MMDiT(depth=1, **options))
    names, parameters = zip(*net.named_parameters(), strict=True)
    conds = [] if options["dim_cond"] is None else [randn(2, 3)]
    inputs = [randn(2, n, dim) for n, dim in zip((2, 3), options["dim_modalities"], strict=True)]
    places = [torch.rand(n, 2) for n in (2, 3)] if "rotary_axes" in options else None

    def outputs(*values):
        given = dict(modality_tokens=values[:2], modality_masks=MASKS, modality_positions=places)
        given |= dict(time_cond=values[2]) if conds else {}
        weights = dict(zip(names, values[2 + len(conds) :], strict=True))
        outs = torch.func.functional_call(net, weights, (), given)
        return tuple(x if m is None else x[m] for x, m in zip(outs, MASKS, strict=True) if x is not None)

    return outputs, [x.detach().requires_grad_() for x in (*inputs, *conds, *parameters)]


QUICK = ("standard", "adaptive by token", "parallel, shared modulation", "packed, adaptive by sample")


@pytest.mark.parametrize("name", slow_but(BLOCKS, *QUICK))
def test_gradients_are_the_numerical_ones(name):
    assert torch.autograd.gradcheck(*as_function(BLOCKS[name]), fast_mode=True)


def has_second_derivatives(function, values):
    """The numerical ones, of first ones that are those of the plain backward pass."""

    def total():
        outs = function(*values)
        return sum((out * out.detach().cos()).sum() for out in (outs if isinstance(outs, tuple) else (outs,)))

    first = torch.autograd.grad(total(), values, allow_unused=True, create_graph=True)
    for a, b in zip(first, torch.autograd.grad(total(), values, allow_unused=True), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
    return torch.autograd.gradgradcheck(function, values, fast_mode=True)


EXPLICIT = ("standard", "adaptive by token", "soft clamp", "rotary", "parallel")


@pytest.mark.parametrize("name", slow_but([*EXPLICIT, "hyper-connections", "manifold"], "soft clamp"))
def test_second_derivatives_are_the_numerical_ones_where_attention_is_explicit(name):
    more = {} if name == "soft clamp" else dict(flash_attn=False)
    assert has_second_derivatives(*as_function(BLOCKS[name], **more))


def test_second_derivatives_of_the_fused_attention_are_refused():
    net, x = JointAttention(dim_inputs=[4], heads=1, dim_head=4), torch.randn(1, 3, 4, requires_grad=True)
    (first,) = torch.autograd.grad(net([x])[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for .*flash_attention.* is not implemented"):
        first.square().sum().backward()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("manifold", [False, True])
def test_streams_have_second_derivatives(manifold, writes, dynamic):
    net = drawn(HyperConnection(3, streams=2, manifold=manifold, writes=writes, dynamic=dynamic))
    names, parameters = zip(*net.width.named_parameters(), strict=True)
    given = [randn(1, 2, 2, 3), randn(1, 2, 3), randn(1, 1, 3), *(p.detach() for p in parameters)]

    def outputs(x, out, gate, *weights):
        branch, state = torch.func.functional_call(net.width, dict(zip(names, weights, strict=True)), (x,))
        return (branch, net.depth(state, out + branch, gate)) if writes else branch

    assert has_second_derivatives(outputs, [value.requires_grad_() for value in given])


def test_sinkhorn_has_second_derivatives():
    assert has_second_derivatives(sinkhorn_knopp, [(3 * randn(2, 3, 3)).requires_grad_()])


def test_what_mixes_streams_may_come_from_them():
    def written(x, out):
        return write_streams(x, x @ x.mT, x.sum(-1, keepdim=True), out, None)

    assert has_second_derivatives(written, [randn(1, 2, 2, 3).requires_grad_(), randn(1, 2, 3).requires_grad_()])


def test_a_gradient_by_function_is_that_of_the_backward_pass():
    block = drawn(MMDiTBlock(dim_modalities=(6, 6), heads=1, dim_head=4, num_residual_streams=2))
    x, other = randn(1, 3, 2, 6).requires_grad_(), randn(1, 2, 2, 6)

    def size(value):
        return sum(out.square().sum() for out in block(modality_tokens=(value, other)))

    (wanted,) = torch.autograd.grad(size(x), x)
    torch.testing.assert_close(torch.func.grad(size)(x.detach()), wanted)
