from __future__ import annotations

import pytest
import torch

from mmdit.layers.feedforward import FEEDFORWARD_KINDS, FeedForward
from mmdit.networks.block import MMDiTBlock
from mmdit.options import FeedForwardOptions
from tests.support import oracles
from tests.support.draws import drawn, randn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", FEEDFORWARD_KINDS)
def test_it_is_linear_activation_linear(kind, bias):
    net, x = drawn(FeedForward(6, mult=2.5, kind=kind, bias=bias)), randn(2, 3, 6)
    assert net.proj_out.in_features == 15
    torch.testing.assert_close(net(x), oracles.feedforward(x, net.state_dict(), kind), rtol=1e-12, atol=1e-12)


def test_features_are_dropped_in_training_alone():
    net, x = drawn(FeedForward(6, dropout=0.5)), randn(2, 3, 6)
    assert not torch.equal(net(x), net(x))
    net.eval()
    torch.testing.assert_close(net(x), oracles.feedforward(x, net.state_dict(), "gelu"))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, {}),
        (dict(mult=2, kind="swiglu"), dict(mult=2, kind="swiglu")),
        (dict(glu=True), dict(kind="geglu")),
        (dict(swish=True), dict(kind="silu")),
        (dict(glu=True, swish=True, no_bias=True), dict(kind="swiglu", bias=False)),
        (dict(glu=False, no_bias=False), dict(kind="gelu", bias=True)),
    ],
)
def test_the_published_flags_are_understood(given, wanted):
    assert FeedForwardOptions.of_published(given) == FeedForwardOptions(**wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeedForward(6, kind="relu"), "kind: expected one of gelu, gelu_tanh, .*got 'relu'"),
        (lambda: FeedForward(6, mult=0.1), "hidden width of at least 1, got 0.1 of 6"),
        (
            lambda: MMDiTBlock(dim_modalities=[6], ff_kwargs=dict(kind="gelu", glu=True)),
            "ff_kwargs: give either kind or the flags glu and swish",
        ),
        (
            lambda: MMDiTBlock(dim_modalities=[6], ff_kwargs=dict(relu_squared=1)),
            "ff_kwargs: unknown relu_squared; known are mult",
        ),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
