from __future__ import annotations

import oracles
import pytest
import torch
from conftest import drawn, padded_mask, randn

from mmdit.adaptive_attention import AdaptiveAttention

SIZES = dict(dim=10, heads=3, dim_head=4)


@pytest.mark.parametrize("mask", [None, padded_mask(6, 2, 6)], ids=["unmasked", "masked"])
@pytest.mark.parametrize("options", [{}, dict(softclamp=True, softclamp_value=0.7), dict(qk_rmsnorm=True)])
@pytest.mark.parametrize("weights", [1, 2, 4])
def test_it_is_joint_attention_over_one_sequence(weights, options, mask):
    net, x = drawn(AdaptiveAttention(**SIZES, num_adaptive_weights=weights, **options)), randn(2, 6, 10)
    state = oracles.below(net.state_dict(), "attention.")
    masks = None if mask is None else [mask]
    (wanted,) = oracles.joint_attention(state, [x], 3, masks, clamp=options.get("softclamp_value"))
    torch.testing.assert_close(net(x, mask), wanted, rtol=1e-9, atol=1e-11)


def test_the_gate_can_come_from_a_conditioning_vector():
    net = drawn(AdaptiveAttention(**SIZES, num_adaptive_weights=2, gating="sample", dim_cond=5))
    x, cond = randn(2, 6, 10), randn(2, 5)
    (wanted,) = oracles.joint_attention(oracles.below(net.state_dict(), "attention."), [x], 3, conds=[cond])
    torch.testing.assert_close(net(x, cond=cond), wanted, rtol=1e-9, atol=1e-11)


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
