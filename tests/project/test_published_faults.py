"""The known faults of the published `mmdit` 0.3.0, each right here."""

from __future__ import annotations

from unittest import mock

import torch

from mmdit import MMDiT, MMDiTBlock
from mmdit.adaptive_attention import AdaptiveAttention
from mmdit.networks import transformer as generalized
from tests.support import oracles
from tests.support.draws import drawn, randn

SMALL = dict(dim_text=12, dim_image=8, heads=2, dim_head=4, dim_cond=6)


def call(net, **options):
    given = dict(text_tokens=randn(2, 5, 12), image_tokens=randn(2, 4, 8), time_cond=randn(2, 6))
    return net.double()(**given, **options)


def test_1_dim_joint_attn_is_accepted_in_the_examples_of_its_readme():
    """The examples, narrower."""
    block = MMDiTBlock(dim_joint_attn=128, dim_cond=16, dim_text=24, dim_image=16, qk_rmsnorm=True)
    text, image, mask = torch.randn(2, 8, 24), torch.randn(2, 12, 16), torch.ones(2, 8).bool()
    outs = block(time_cond=torch.randn(2, 16), text_tokens=text, text_mask=mask, image_tokens=image)
    assert [x.shape for x in outs] == [text.shape, image.shape]
    assert (block.joint_attn.heads, block.joint_attn.dim_head) == (2, 64)

    net = generalized.MMDiT(depth=2, dim_modalities=(24, 16, 12), dim_joint_attn=128, dim_cond=16, qk_rmsnorm=True)
    tokens = (text, image, torch.randn(2, 6, 12))
    outs = net(modality_tokens=tokens, modality_masks=(mask, None, None), time_cond=torch.randn(2, 16))
    assert [x.shape for x in outs] == [x.shape for x in tokens]


def test_2_qk_rmsnorm_normalizes_in_blocks_and_transformers():
    for make in (MMDiTBlock, lambda **kw: MMDiT(depth=1, **kw)):
        net = drawn(make(**SMALL, qk_rmsnorm=True))
        attention = next(m for m in net.modules() if hasattr(m, "attend"))
        with mock.patch.object(attention.attend, "forward", side_effect=attention.attend.forward) as attend:
            call(net)
        q = attend.call_args.args[0]
        scale = torch.cat([n.weight[None].expand(t, -1, -1) for n, t in zip(attention.q_norms, (5, 4), strict=True)])
        squares = (q / scale.transpose(0, 1)).square().mean(-1)
        torch.testing.assert_close(squares, torch.ones_like(squares), rtol=1e-3, atol=0)


def test_3_adaptive_attention_gives_b_n_dim_for_one_weight_and_for_several():
    for weights in (1, 4):
        net = AdaptiveAttention(dim=24, dim_head=8, heads=2, num_adaptive_weights=weights)
        assert net(torch.randn(3, 5, 24), mask=torch.ones(3, 5, dtype=torch.bool)).shape == (3, 5, 24)


def test_4_adaptive_attention_is_joint_and_works_in_a_block():
    net = drawn(MMDiTBlock(**SMALL, num_adaptive_weights=3))
    text, image, cond = randn(2, 5, 12), randn(2, 4, 8), randn(2, 6)
    before = net(text_tokens=text, image_tokens=image, time_cond=cond)[1]
    after = net(text_tokens=text + 1e-3 * randn(2, 5, 12), image_tokens=image, time_cond=cond)[1]
    assert not torch.equal(before, after)


def test_5_softclamp_exists_in_the_two_modality_block():
    net, clamped = MMDiTBlock(**SMALL), MMDiTBlock(**SMALL, softclamp=True, softclamp_value=0.1)
    clamped.load_state_dict(drawn(net).state_dict())
    given = dict(text_tokens=randn(2, 5, 12), image_tokens=randn(2, 4, 8), time_cond=randn(2, 6))
    conds = [given["time_cond"]] * 2
    for block, clamp in ((net, None), (clamped.double(), 0.1)):
        wanted = oracles.block(
            net.state_dict(), [given["text_tokens"], given["image_tokens"]], 2, None, conds, clamp=clamp
        )
        for a, b in zip(block(**given), wanted, strict=True):
            torch.testing.assert_close(a, b)
    assert not torch.allclose(net(**given)[1], clamped(**given)[1])


def test_6_no_mask_is_made_where_none_was_given():
    for net in (MMDiT(depth=1, **SMALL), MMDiT(depth=1, **SMALL, num_register_tokens=2)):
        attend = net.blocks[0].joint_attn.attend
        with mock.patch.object(attend, "forward", side_effect=attend.forward) as forward:
            call(net)
        assert forward.call_args.args[3] is None


def test_7_the_last_block_owns_no_parameter_without_a_gradient():
    two = drawn(MMDiT(depth=2, **SMALL))
    text, image = call(two)
    (text.square().sum() + image.square().sum()).backward()
    general = drawn(generalized.MMDiT(depth=2, dim_modalities=(12, 8), heads=2, dim_head=4, dim_cond=6, discard=(0,)))
    _, image = general(modality_tokens=(randn(2, 5, 12), randn(2, 4, 8)), time_cond=randn(2, 6))
    image.square().sum().backward()
    for net in (two, general):
        assert [name for name, p in net.named_parameters() if p.grad is None or p.grad.norm() < 1e-9] == []
