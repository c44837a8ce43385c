from __future__ import annotations

import pytest
import torch

from mmdit.layers.norms import MultiHeadRMSNorm, RMSNorm, make_norm, make_norm_behind
from mmdit.options import BlockOptions, ModulationOptions, NormOptions
from tests.support import oracles
from tests.support.draws import drawn, randn

EPS = 1e-2  # so large that a forgotten or misplaced one shows


NORMS = {"layer": oracles.layer_norm, "rms": oracles.rms_norm}


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("weights", ["none", "plain"])
@pytest.mark.parametrize("kind", NORMS)
def test_the_adaptive_norm_is_a_norm_scaled_and_shifted(kind, weights, rows):
    net = drawn(make_norm(6, options(kind=kind, weights=weights)))
    x, shift, scale = randn(rows, 3, 6), randn(rows, 1, 6), randn(rows, 1, 6)
    normed = by_hand(net.norm, x, kind, weights)
    torch.testing.assert_close(net(x, shift, scale), normed * (1 + scale) + shift)
    torch.testing.assert_close(net(x, None, scale), normed * (1 + scale))
    torch.testing.assert_close(net(x), normed)


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_has_weights_where_the_conditioning_does_not_modulate_it(kind):
    assert not list(make_norm(6, options(kind=kind)).parameters())
    gated = make_norm(6, options(parts="gate", kind=kind))
    assert drawn(gated).norm.weight.shape == drawn(make_norm(6, options(None, kind=kind))).norm.weight.shape == (6,)
    x = randn(2, 3, 6)
    torch.testing.assert_close(gated(x), by_hand(gated.norm, x, kind, "plain"))


def test_zero_centred_weights_are_what_is_added_to_one():
    net, x = make_norm(6, options(kind="rms", weights="zero_centred")).norm, randn(2, 3, 6)
    assert not net.weight.any()
    torch.testing.assert_close(drawn(net)(x), oracles.rms_norm(x, 1 + net.weight, EPS))


def test_behind_a_branch_is_a_norm_of_the_same_kind_only_where_norms_are_around_it():
    behind, x = drawn(make_norm_behind(6, options(kind="rms", weights="plain", place="around"))), randn(2, 3, 6)
    torch.testing.assert_close(behind(x), oracles.rms_norm(x, behind.weight, EPS))
    assert make_norm_behind(6, options(kind="rms"))(x) is x


def options(dim_cond=4, parts="shift_scale_gate", **norm):
    modulation = ModulationOptions() if dim_cond is None else ModulationOptions(parts=parts)
    return BlockOptions(dim_cond=dim_cond, modulation=modulation, norm=NormOptions(**norm), norm_eps=EPS)


def by_hand(net, x, kind, weights):
    weight = net.weight if weights == "plain" else 1
    return (
        oracles.layer_norm(x, EPS) * weight + (0 if net.bias is None else net.bias)
        if kind == "layer"
        else (oracles.rms_norm(x, weight, EPS))
    )


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
