from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmdit.layers.feedforward import FeedForward
from mmdit.layers.neighbours import Neighbours, alone, make_neighbours
from mmdit.packing import Packing
from tests.support.draws import drawn, padded_mask, randn

HOLED = torch.tensor([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()


def kernel_of(linear, k):
    """The weight of torch's convolution: `e d k`."""
    return linear.weight.unflatten(1, (k, -1)).transpose(1, 2)


@pytest.mark.parametrize("k", [3, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_a_linear_on_neighbours_is_a_convolution(k, n):
    linear, x = torch.nn.Linear(k * 5, 4).double(), randn(2, n, 5)
    got = linear(Neighbours(k)(x))
    if not n:
        assert got.shape == (2, 0, 4)
        return
    wanted = F.conv1d(x.mT, kernel_of(linear, k), linear.bias, padding=k // 2).mT
    assert torch.allclose(got, wanted, atol=1e-12)


def test_one_token_by_itself_is_left_alone():
    x = randn(2, 3, 4)
    assert make_neighbours(1) is alone and alone(x) is x


def test_heads_are_taken_as_the_features_that_they_make():
    x = randn(2, 5, 3, 4)
    assert torch.equal(Neighbours(3)(x).flatten(2), Neighbours(3)(x.flatten(2)))


def test_masked_neighbours_are_zeros_as_beyond_the_ends():
    x, mask = randn(2, 6, 4), padded_mask(6, 4, 6)
    spoiled = x.masked_fill(~mask[..., None], float("nan"))
    got = Neighbours(3)(spoiled, mask)
    assert torch.equal(got[:1, :4], Neighbours(3)(x[:1, :4]))
    assert torch.equal(got[1:], Neighbours(3)(x[1:]))
    assert torch.equal(Neighbours(3)(spoiled, HOLED[:2] & mask)[0, 1], torch.cat([x[0, 0], x[0, 1], torch.zeros(4)]))


def test_packed_tokens_have_the_neighbours_that_they_had_before():
    x = randn(3, 6, 4)
    packing = Packing.from_masks([HOLED], [6], 3)
    packed = Neighbours(5)(packing.pack(x, 0), packing)
    assert torch.equal(packed[0], Neighbours(5)(x, HOLED)[HOLED])


def test_a_packing_of_lengths_alone_is_refused():
    with pytest.raises(ValueError, match="needs the Packing that they were packed by"):
        Neighbours(3)(randn(1, 5, 4), Packing(((2, 3),)))


@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
def test_a_feedforward_of_convolutions_is_two_of_them_around_its_activation(kind):
    net, x, mask = drawn(FeedForward(6, kind=kind, mult=2, kernel=3)), randn(2, 7, 6), padded_mask(7, 7, 5)
    x.requires_grad_()
    hidden = F.conv1d((x * mask[..., None]).mT, kernel_of(net.proj_in, 3), net.proj_in.bias, padding=1).mT
    if kind == "swiglu":
        value, gate = hidden.chunk(2, dim=-1)
        hidden = value * F.silu(gate)
    else:
        hidden = F.gelu(hidden)
    wanted = F.conv1d((hidden * mask[..., None]).mT, kernel_of(net.proj_out, 3), net.proj_out.bias, padding=1).mT
    got = net(x, mask)
    assert torch.allclose(got[mask], wanted[mask], atol=1e-12)
    weights = [x, net.proj_in.weight, net.proj_out.weight]
    for a, b in zip(*(torch.autograd.grad(y[mask].square().sum(), weights) for y in (got, wanted)), strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_a_kernel_that_has_no_middle_or_is_by_modality_is_refused():
    with pytest.raises(ValueError, match="kernel: as many tokens on either side make an odd number, got 4"):
        FeedForward(6, kernel=4)
    with pytest.raises(ValueError, match="kernel must be a number here"):
        FeedForward(6, kernel={"audio": 3})
