from __future__ import annotations

import pytest

from mmdit import JointAttention
from mmdit.options import JointAttentionOptions


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, (8, 64)),
        ({"dim_joint_attn": 256}, (4, 64)),
        ({"heads": 3}, (3, 64)),
        ({"dim_head": 32}, (8, 32)),
        ({"dim_joint_attn": 96, "heads": 3}, (3, 32)),
        ({"dim_joint_attn": 96, "dim_head": 48}, (2, 48)),
        ({"heads": 3, "dim_head": 5}, (3, 5)),
        ({"dim_joint_attn": 15, "heads": 3, "dim_head": 5}, (3, 5)),
    ],
)
def test_any_two_sizes_decide_the_third(given, wanted):
    assert JointAttentionOptions(**given).head_sizes == wanted
    net = JointAttention(dim_inputs=[8], **given)
    assert (net.heads, net.dim_head) == wanted
    assert net.to_out[0].linear.in_features == wanted[0] * wanted[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((16, 3, 5), r"dim_joint_attn must be heads \* dim_head = 3 \* 5 = 15, got 16"),
        ((100, None, None), "dim_joint_attn must be a multiple of dim_head=64, got 100"),
        ((32, None, None), "dim_joint_attn must be a multiple of dim_head=64, got 32"),
        ((100, 3, None), "dim_joint_attn must be a multiple of heads=3, got 100"),
        ((100, None, 48), "dim_joint_attn must be a multiple of dim_head=48, got 100"),
        ((0, None, None), "dim_joint_attn: expected a number > 0 or null, got 0"),
        ((None, -2, None), "heads: expected a number > 0 or null, got -2"),
        ((None, None, 0), "dim_head: expected a number > 0 or null, got 0"),
    ],
)
def test_sizes_that_contradict_one_another_are_refused(given, message):
    dim_joint_attn, heads, dim_head = given
    with pytest.raises(ValueError, match=message):
        JointAttentionOptions(dim_joint_attn=dim_joint_attn, heads=heads, dim_head=dim_head)
