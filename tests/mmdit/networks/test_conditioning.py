"""A vector of conditioning for each token, or for runs of them."""

from __future__ import annotations

import pytest
import torch

from mmdit.layers.modulation import ConditioningRuns
from mmdit.mmdit_generalized_pytorch import MMDiT
from tests.support.draws import drawn, padded_mask, randn

SHAPES = {
    "two joint blocks": {},
    "single stream": {"single_stream_depth": 2},
    "sequential": {"single_stream": "sequential", "single_stream_depth": 1},
    "shared": {"shared_modulation": True, "single_stream_depth": 1},
    "streams": {"num_residual_streams": 2},
}


def stack(**more):
    return drawn(MMDiT(depth=2, dim_modalities=(8, 8), dim_joint_attn=8, heads=2, dim_cond=6, **more)).eval()


@pytest.mark.parametrize("more", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_the_same_vector_for_every_token_is_the_vector(more, packed):
    net, tokens, cond = stack(**more, varlen=packed), (randn(2, 3, 8), randn(2, 5, 8)), randn(2, 6)
    masks = (torch.tensor([[True, True, False], [True, False, False]]), None) if packed else None
    call = dict(modality_tokens=tokens, modality_masks=masks)
    with torch.no_grad():
        wanted = net(**call, time_cond=cond)
        each = [cond[:, None].expand(-1, x.shape[1], -1) for x in tokens]
        runs = [cond, ConditioningRuns(cond[:, None].expand(-1, 2, -1), (4, 1))]
        for conds in (each, [cond, each[1]], runs):
            for got, x in zip(net(**call, time_cond=conds), wanted, strict=True):
                assert torch.allclose(got, x, atol=1e-12)


@pytest.mark.parametrize("more", SHAPES.values(), ids=SHAPES)
def test_a_vector_acts_on_its_own_token_and_what_attends_to_it(more):
    net, tokens = stack(**more), (randn(1, 3, 8), randn(1, 5, 8))
    each = [randn(1, 3, 6), randn(1, 5, 6)]
    order = torch.tensor([4, 2, 0, 1, 3])
    with torch.no_grad():
        text, image = net(modality_tokens=tokens, time_cond=each)
        moved = net(modality_tokens=(tokens[0], tokens[1][:, order]), time_cond=[each[0], each[1][:, order]])
        still = net(modality_tokens=(tokens[0], tokens[1][:, order]), time_cond=each)
    assert torch.allclose(moved[1], image[:, order], atol=1e-12) and torch.allclose(moved[0], text, atol=1e-12)
    assert not torch.allclose(still[1], image[:, order], atol=1e-3)


@pytest.mark.parametrize(
    ("more", "cond", "message"),
    [
        (
            {},
            [randn(1, 6), randn(1, 4, 6)],
            r"modality 1 must .* or \(1, 5, 6\), one for each token",
        ),
        ({}, [randn(1, 6), ConditioningRuns(randn(1, 2, 6), (2, 2))], "one for each token"),
        ({}, [randn(1, 6), ConditioningRuns(randn(1, 3, 6), (2, 3))], r"got \(1, 3, 6\) for runs of \(2, 3\) tokens"),
        ({}, [randn(1, 6), ConditioningRuns(randn(1, 1, 6), (2, 3))], r"got \(1, 1, 6\) for runs of \(2, 3\) tokens"),
        ({"num_register_tokens": 1}, [randn(1, 6), randn(1, 5, 6)], "modality 1: .* register tokens"),
        ({"num_adaptive_weights": 2, "gating": "sample"}, [randn(1, 6), randn(1, 5, 6)], "gating 'sample'"),
    ],
)
def test_what_has_no_vector_for_each_token_says_so(more, cond, message):
    with pytest.raises(ValueError, match=message):
        stack(**more)(modality_tokens=(randn(1, 3, 8), randn(1, 5, 8)), time_cond=cond)


@pytest.mark.parametrize("more", [{}, {"single_stream_depth": 1}], ids=["joint", "single stream"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_a_vector_at_a_masked_token_changes_no_valid_output_and_no_gradient(more, packed):
    net, tokens, mask = stack(**more, varlen=packed), (randn(2, 3, 8), randn(2, 5, 8)), padded_mask(3, 1, 3)
    each, seen = randn(2, 3, 6), []
    for fill in (0.5, float("nan"), float("inf")):
        cond = each.masked_fill(~mask[..., None], fill).requires_grad_()
        net.zero_grad()
        text, image = net(modality_tokens=tokens, modality_masks=[mask, None], time_cond=[cond, each[:, 0]])
        (text[mask].square().sum() + image.square().sum()).backward()
        seen.append([text[mask], image, cond.grad, *(p.grad for p in net.parameters() if p.grad is not None)])
    assert all(x.isfinite().all() for x in seen[0])
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


def test_it_changes_nothing_in_a_block_by_itself():
    masks, cond = [padded_mask(3, 1, 3), padded_mask(5, 2, 5)], randn(2, 6)
    for block, count in ((stack().blocks[0], 2), (stack(single_stream_depth=1).single_blocks[0], 1)):
        tokens = [randn(2, n, 8) for n in (3, 5)[:count]]
        each = [cond[:, None].expand(-1, x.shape[1], -1) for x in tokens]
        bad = [x.masked_fill(~mask[..., None], float("nan")) for x, mask in zip(each, masks, strict=False)]
        call = dict(modality_tokens=tokens, modality_masks=masks[:count])
        wanted, got = block(**call, time_cond=cond), block(**call, time_cond=bad)
        for x, y, mask in zip(wanted, got, masks, strict=False):
            torch.testing.assert_close(y[mask], x[mask])


@pytest.mark.parametrize("more", SHAPES.values(), ids=SHAPES)
def test_packed_it_goes_with_register_tokens_of_another_modality(more):
    net, tokens = stack(**more, num_register_tokens=(0, 2)), (randn(2, 3, 8), randn(2, 5, 8))
    masks, conds = [padded_mask(3, 1, 3), padded_mask(5, 5, 2)], [randn(2, 3, 6), randn(2, 6)]
    call = dict(modality_tokens=tokens, modality_masks=masks, time_cond=conds)
    wanted = net(**call)
    net.varlen = True
    for got, x, mask in zip(net(**call), wanted, masks, strict=True):
        torch.testing.assert_close(got[mask], x[mask])


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_one_tensor_for_the_tokens_of_two_modalities_is_as_two(packed):
    net, tokens, each = stack(single_stream_depth=1, varlen=packed), (randn(2, 5, 8), randn(2, 5, 8)), randn(2, 5, 6)
    call = dict(modality_tokens=tokens, modality_masks=[padded_mask(5, 2, 5), None])
    for got, wanted in zip(
        net(**call, time_cond=[each, each]), net(**call, time_cond=[each, each.clone()]), strict=True
    ):
        assert torch.equal(got, wanted)
