from __future__ import annotations

import pytest
import torch

from mmdit.layers.norms import AdaptiveLayerNorm, MultiHeadRMSNorm, RMSNorm
from tests.support import oracles
from tests.support.draws import drawn, randn

EPS = 1e-2  # so large that a forgotten or misplaced one shows


def test_the_adaptive_norm_is_a_layer_norm_scaled_and_shifted():
    net, x, shift, scale = (
        AdaptiveLayerNorm(6, conditioned=True, eps=EPS),
        randn(2, 3, 6),
        randn(2, 1, 6),
        randn(2, 1, 6),
    )
    assert not list(net.parameters())
    torch.testing.assert_close(net(x, shift, scale), oracles.layer_norm(x, EPS) * (1 + scale) + shift)


def test_without_conditioning_it_has_a_weight_and_a_bias():
    net, x = drawn(AdaptiveLayerNorm(6, conditioned=False, eps=EPS)), randn(2, 3, 6)
    torch.testing.assert_close(net(x), oracles.layer_norm(x, EPS) * net.norm.weight + net.norm.bias)


def test_the_rms_norm_divides_by_the_root_of_the_mean_square():
    net, x = drawn(RMSNorm(6, eps=EPS)), randn(2, 3, 6)
    torch.testing.assert_close(net(x), oracles.rms_norm(x, net.weight, EPS))


@pytest.mark.parametrize(("shared", "shape"), [(False, (4, 6)), (True, (6,))])
def test_every_head_is_normed_for_itself(shared, shape):
    net, x = drawn(MultiHeadRMSNorm(6, heads=4, shared=shared, eps=EPS)), randn(2, 3, 4, 6)
    assert net.weight.shape == shape
    got = net(x)
    for head in range(4):
        weight = net.weight if shared else net.weight[head]
        torch.testing.assert_close(got[:, :, head], oracles.rms_norm(x[:, :, head], weight, EPS))


@pytest.mark.parametrize("make", [lambda: RMSNorm(64), lambda: MultiHeadRMSNorm(64, heads=4)])
def test_squares_are_added_up_in_float32(make):
    """In float16 the square of 300 is infinite, in bfloat16 a sum of 64 of them is 1 % off."""
    x = randn(2, 3, 4, 64) * 300
    for dtype, bound in ((torch.float16, 2e-3), (torch.bfloat16, 1e-2)):
        net = drawn(make())
        wanted, got = net(x), net.to(dtype)(x.to(dtype))
        assert got.dtype == dtype
        assert ((got - wanted).norm() / wanted.norm()).item() < bound
