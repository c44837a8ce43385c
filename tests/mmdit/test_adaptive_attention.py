from __future__ import annotations

import pytest
import torch

from mmdit.adaptive_attention import AdaptiveAttention
from mmdit.layers.joint_attention import JointAttention
from mmdit_cli.memory.measured import measure_memory
from tests.support import oracles
from tests.support.draws import as_read, drawn, padded_mask, randn
from tests.support.marks import slow_but

SIZES = dict(dim=10, heads=3, dim_head=4)


@pytest.mark.parametrize("mask", [None, padded_mask(6, 2, 6)], ids=["unmasked", "masked"])
@pytest.mark.parametrize("options", [{}, dict(softclamp=True, softclamp_value=0.7), dict(qk_rmsnorm=True)])
@pytest.mark.parametrize("weights", [1, 2, 4])
def test_it_is_joint_attention_over_one_sequence(weights, options, mask):
    net, x = drawn(AdaptiveAttention(**SIZES, num_adaptive_weights=weights, **options)), randn(2, 6, 10)
    state = oracles.below(net.state_dict(), "attention.")
    masks = None if mask is None else [mask]
    (wanted,) = oracles.joint_attention(state, as_read([x], masks), 3, masks, clamp=options.get("softclamp_value"))
    torch.testing.assert_close(net(x, mask), wanted, rtol=1e-9, atol=1e-11)


def test_the_gate_can_come_from_a_conditioning_vector():
    net = drawn(AdaptiveAttention(**SIZES, num_adaptive_weights=2, gating="sample", dim_cond=5))
    x, cond = randn(2, 6, 10), randn(2, 5)
    (wanted,) = oracles.joint_attention(oracles.below(net.state_dict(), "attention."), [x], 3, conds=[cond])
    torch.testing.assert_close(net(x, cond=cond), wanted, rtol=1e-9, atol=1e-11)


def sharply_gated(net):
    """Gates far from uniform, where a share applied to the wrong weight or head shows."""
    net = drawn(net)
    with torch.no_grad():
        for gate in net.gates:
            gate.linear.weight *= 5
    return net


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("options", [{}, dict(bias=True, qk_rmsnorm=True), dict(discard=[0])], ids=str)
@pytest.mark.parametrize("gating", ["token", "sample"])
@pytest.mark.parametrize("weights", [2, 5])
def test_outputs_and_gradients_are_those_of_the_sum_over_all_weights(weights, gating, options, masked):
    net = sharply_gated(
        JointAttention(
            dim_inputs=(10, 6), heads=3, dim_head=4, num_adaptive_weights=weights, gating=gating, dim_cond=5, **options
        )
    )
    masks = [padded_mask(4, 1, 4), None] if masked else None
    xs, cond = [randn(2, 4, 10).requires_grad_(), randn(2, 7, 6).requires_grad_()], randn(2, 5).requires_grad_()
    given, conds = (cond, [cond, cond]) if gating == "sample" else (None, None)
    leaves = [*xs, *([] if given is None else [given]), *net.parameters()]
    outs = net(xs, masks, given)
    wanted = oracles.joint_attention(dict(net.named_parameters()), as_read(xs, masks), 3, masks, conds=conds)

    shares = net.gates[1](xs[1], given)
    assert shares.amax(-1).mean() > 1.3 / weights
    for out, want in zip(outs, wanted, strict=True):
        torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-11)
    losses = [sum(x.sin().sum() for x in found if x is not None) for found in (outs, wanted)]
    for got, want in zip(*(torch.autograd.grad(loss, leaves) for loss in losses), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("gating", ["token", "sample"])
def test_a_sample_alone_gives_what_it_gives_in_a_batch_and_the_gradients_add_up(gating):
    net = sharply_gated(
        JointAttention(dim_inputs=[10], heads=3, dim_head=4, num_adaptive_weights=3, gating=gating, dim_cond=5)
    )
    x, cond = randn(2, 6, 10), randn(2, 5)

    def attend(rows):
        (out,) = net([x[rows]], None, cond[rows] if gating == "sample" else None)
        return out, torch.autograd.grad(out.sin().sum(), list(net.parameters()))

    (whole, grads), (first, first_grads), (second, second_grads) = map(attend, (slice(2), slice(1), slice(1, 2)))
    torch.testing.assert_close(whole, torch.cat([first, second]), rtol=1e-9, atol=1e-11)
    for both, one, other in zip(grads, first_grads, second_grads, strict=True):
        torch.testing.assert_close(both, one + other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("gating", slow_but(["token", "sample"], "token"))
def test_gradients_are_finite_differences(gating):
    net = sharply_gated(
        JointAttention(dim_inputs=[3], heads=2, dim_head=2, num_adaptive_weights=3, gating=gating, dim_cond=2)
    )
    x, cond = randn(2, 3, 3).requires_grad_(), randn(2, 2).requires_grad_()

    def attend(x, cond, *_):
        return net([x], None, cond if gating == "sample" else None)[0]

    leaves = (x, cond, *net.parameters()) if gating == "sample" else (x, cond.detach(), *net.parameters())
    assert torch.autograd.gradcheck(attend, leaves)


@pytest.mark.parametrize("weights", [2, 7])
def test_without_autograd_one_result_is_held_beside_the_sum_whatever_the_number_of_weights(weights):
    net = AdaptiveAttention(**SIZES, num_adaptive_weights=weights).attention
    x, gate = torch.randn(1, 200, 10), torch.rand(1, 200, 3, weights)
    with torch.no_grad():
        use = measure_memory(net.to_qkv[0], lambda begins: net.to_qkv[0](x, gate), x.device)
    result = x.shape[1] * 3 * 3 * 4 * x.element_size()  # queries, keys, values of 3 heads of 4
    assert use.peak - use.weights == 2 * result


def test_every_weight_gets_a_gradient():
    net = drawn(AdaptiveAttention(**SIZES, num_adaptive_weights=4))
    net(randn(2, 6, 10)).sin().sum().backward()
    for parameter in net.parameters():
        assert parameter.grad.flatten(1).norm(dim=1).gt(1e-6).all()


@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (torch.zeros(2, 6, 9), None, r"sequence tokens must have the shape \(batch, length, 10\), got \(2, 6, 9\)"),
        (torch.zeros(2, 6, 10), torch.ones(2, 5).bool(), r"sequence mask must have the shape \(2, 6\).*got \(2, 5\)"),
        (torch.zeros(2, 6, 10), torch.ones(2, 6), r"sequence mask must be of dtype torch.bool.*got torch.float32"),
    ],
)
def test_wrong_inputs_are_named(x, mask, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveAttention(**SIZES)(x, mask)
