from __future__ import annotations

import oracles
import pytest
import torch
from conftest import drawn, padded_mask, randn
from torch.nn.functional import silu

from mmdit import mmdit_pytorch as two
from mmdit.mmdit_generalized_pytorch import MMDiT, MMDiTBlock

DIMS, LENGTHS, COND = (10, 6, 8), (5, 4, 7), 9
SIZES = dict(dim_modalities=DIMS, heads=2, dim_head=4)
MASKS = (padded_mask(5, 3, 5), None, padded_mask(7, 7, 2))
VARIANTS = {
    "standard": {},
    "qk-norm": dict(qk_rmsnorm=True),
    "adaptive by token": dict(num_adaptive_weights=2),
    "adaptive by sample": dict(num_adaptive_weights=2, gating="sample"),
    "soft-clamped": dict(softclamp=True),
    "hyper-connections": dict(num_residual_streams=3, residual="hyper_connections"),
    "static hyper-connections": dict(num_residual_streams=2, residual="hyper_connections", dynamic_residual=False),
    "manifold": dict(num_residual_streams=3),
    "swiglu": dict(ff_kwargs=dict(kind="swiglu", mult=2)),
}


def tokens(batch: int = 2):
    return tuple(randn(batch, n, d) for n, d in zip(LENGTHS, DIMS, strict=True))


def modulated(x, shift, scale):
    return oracles.layer_norm(x) * (1 + scale) + shift


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "silu", "geglu", "swiglu"])
def test_a_block_is_the_papers_figure(kind):
    net = drawn(MMDiTBlock(**SIZES, dim_cond=COND, bias=True, qk_rmsnorm=True, ff_kwargs=dict(kind=kind)))
    given, cond = tokens(), randn(2, COND)
    xs, mods = list(given), []
    for modulation in net.modulations:
        flat = silu(cond) @ modulation.linear.weight.T + modulation.linear.bias
        mods.append([part[:, None] for part in flat.chunk(6, dim=-1)])

    normed = [modulated(x, m[0], m[1]) for x, m in zip(xs, mods, strict=True)]
    attention = net.joint_attn
    attended = oracles.joint_attention(
        normed,
        [(m.linear.weight, m.linear.bias) for m in attention.to_qkv],
        [(m.linear.weight, m.linear.bias) for m in attention.to_out],
        2,
        MASKS,
        norms=[(q.weight, k.weight) for q, k in zip(attention.q_norms, attention.k_norms, strict=True)],
    )
    xs = [x + m[2] * a for x, m, a in zip(xs, mods, attended, strict=True)]
    fed = [
        oracles.feedforward(modulated(x, m[3], m[4]), ff.state_dict(), kind)
        for x, m, ff in zip(xs, mods, net.feedforwards, strict=True)
    ]
    wanted = [x + m[5] * y for x, m, y in zip(xs, mods, fed, strict=True)]
    got = net(modality_tokens=given, modality_masks=MASKS, time_cond=cond)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_without_conditioning_norms_have_weights_and_there_are_no_gates():
    net, xs = drawn(MMDiTBlock(**SIZES)), tokens()
    normed = [oracles.layer_norm(x) * n.norm.weight + n.norm.bias for x, n in zip(xs, net.attn_norms, strict=True)]
    attended = net.joint_attn(normed)
    middle = [x + a for x, a in zip(xs, attended, strict=True)]
    wanted = [
        x + ff(oracles.layer_norm(x) * n.norm.weight + n.norm.bias)
        for x, n, ff in zip(middle, net.ff_norms, net.feedforwards, strict=True)
    ]
    for a, b in zip(net(modality_tokens=xs), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("variant", ["standard", "adaptive by token", "soft-clamped"])
def test_adaln_zero_is_the_identity_at_the_start(variant):
    net, xs = MMDiT(depth=2, **SIZES, dim_cond=COND, final_norms=False, **VARIANTS[variant]).double(), tokens()
    for out, x in zip(net(modality_tokens=xs, time_cond=randn(2, COND)), xs, strict=True):
        assert torch.equal(out, x)


def test_adaln_identity_opens_the_gates_at_the_start():
    net, plain = MMDiTBlock(**SIZES, dim_cond=COND, adaln="identity").double(), MMDiTBlock(**SIZES).double()
    plain.load_state_dict(net.state_dict(), strict=False)
    xs = tokens()
    for a, b in zip(net(modality_tokens=xs, time_cond=randn(2, COND)), plain(modality_tokens=xs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient_and_masked_tokens_change_nothing(variant):
    net = drawn(MMDiT(depth=2, **SIZES, dim_cond=COND, num_register_tokens=2, discard=(0,), **VARIANTS[variant]))
    xs, cond = tokens(), randn(2, COND)
    none, *outs = net(modality_tokens=xs, modality_masks=MASKS, time_cond=cond)
    assert none is None
    assert [o.shape for o in outs] == [x.shape for x in xs[1:]]
    sum((o * torch.randn_like(o)).sum() for o in outs).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []

    noisy = [
        x if m is None else torch.where(m[..., None], x, randn(*x.shape) * 9) for x, m in zip(xs, MASKS, strict=True)
    ]
    _, *changed = net(modality_tokens=noisy, modality_masks=MASKS, time_cond=cond)
    torch.testing.assert_close(outs[0], changed[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(outs[1][MASKS[2]], changed[1][MASKS[2]], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("variant", VARIANTS)
def test_recomputing_activations_changes_no_gradient(variant):
    net = drawn(MMDiT(depth=2, **SIZES, dim_cond=COND, **VARIANTS[variant]))
    xs, cond, grads = tokens(), randn(2, COND), []
    for recompute in (False, True):
        net.checkpoint_activations = recompute
        net.zero_grad()
        sum(o.square().sum() for o in net(modality_tokens=xs, modality_masks=MASKS, time_cond=cond)).backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_each_modality_can_have_a_conditioning_of_its_own():
    net, xs, conds = drawn(MMDiT(depth=1, **SIZES, dim_cond=COND)), tokens(), [randn(2, COND) for _ in DIMS]
    same = net(modality_tokens=xs, time_cond=[conds[0]] * 3)
    for a, b in zip(same, net(modality_tokens=xs, time_cond=conds[0]), strict=True):
        assert torch.equal(a, b)
    other = net(modality_tokens=xs, time_cond=[conds[0], conds[1], conds[0]])
    assert not torch.allclose(other[1], same[1])


def test_registers_are_more_tokens_that_do_not_come_out():
    net = drawn(MMDiT(depth=2, **SIZES, dim_cond=COND, num_register_tokens=(0, 3, 0)))
    plain = MMDiT(depth=2, **SIZES, dim_cond=COND).double()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("registers")})
    xs, cond = tokens(), randn(2, COND)
    by_hand = (xs[0], torch.cat([net.registers[1].tokens.expand(2, -1, -1), xs[1]], 1), xs[2])
    wanted = plain(modality_tokens=by_hand, modality_masks=MASKS, time_cond=cond)
    got = net(modality_tokens=xs, modality_masks=MASKS, time_cond=cond)
    torch.testing.assert_close(got[1], wanted[1][:, 3:])
    torch.testing.assert_close(got[2], wanted[2])


def test_final_norms_are_rms_norms():
    net = drawn(MMDiT(depth=1, **SIZES, final_norms=(True, False, True)))
    bare = MMDiT(depth=1, **SIZES, final_norms=False).double()
    bare.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("final_norms")})
    xs = tokens()
    got, raw = net(modality_tokens=xs), bare(modality_tokens=xs)
    torch.testing.assert_close(got[0], oracles.rms_norm(raw[0], net.final_norms[0].weight))
    torch.testing.assert_close(got[1], raw[1])


def test_a_second_attention_sees_its_own_tokens_alone_and_is_added():
    net = drawn(MMDiTBlock(**SIZES, dim_cond=COND, dual=(2,), bias=True))
    single = MMDiTBlock(**SIZES, dim_cond=COND, bias=True).double()
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("dual")}
    for part in ("weight", "bias"):
        state[f"modulations.2.linear.{part}"] = state[f"modulations.2.linear.{part}"][: 6 * DIMS[2]]
    single.load_state_dict(state)
    xs, cond = tokens(), randn(2, COND)
    flat = silu(cond) @ net.modulations[2].linear.weight.T + net.modulations[2].linear.bias
    shift, scale, gate = (part[:, None] for part in flat.chunk(9, dim=-1)[6:])
    (second,) = net.dual_attns[2]([modulated(xs[2], shift, scale)])
    for block in (net, single):
        block.ff_residuals[2].depth.forward = lambda x, out, gate: x  # leaves what follows the attention
    got = net(modality_tokens=xs, time_cond=cond)[2]
    torch.testing.assert_close(got, single(modality_tokens=xs, time_cond=cond)[2] + gate * second)


@pytest.mark.parametrize("variant", ["standard", "adaptive by token", "hyper-connections"])
def test_the_two_modality_face_is_the_general_block(variant):
    sizes = dict(heads=2, dim_head=4, dim_cond=COND, **VARIANTS[variant])
    face = drawn(two.MMDiT(depth=2, dim_text=10, dim_image=6, num_register_tokens=2, **sizes))
    general = MMDiT(
        depth=2,
        dim_modalities=(10, 6),
        num_register_tokens=(0, 2),
        final_norms=(False, True),
        skip_last_feedforward=(0,),
        **sizes,
    ).double()
    general.load_state_dict(face.state_dict())
    text, image, cond, mask = randn(2, 5, 10), randn(2, 4, 6), randn(2, COND), padded_mask(5, 2, 4)
    ours = face(text_tokens=text, image_tokens=image, text_mask=mask, time_cond=cond)
    theirs = general(modality_tokens=(text, image), modality_masks=(mask, None), time_cond=cond)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_skipping_the_text_feedforward_at_the_call_is_as_not_building_it():
    full = drawn(two.MMDiTBlock(dim_text=10, dim_image=6, heads=2, dim_head=4, dim_cond=COND))
    lean = two.MMDiTBlock(
        dim_text=10, dim_image=6, heads=2, dim_head=4, dim_cond=COND, skip_feedforward_text_tokens=True
    ).double()
    state = {k: v for k, v in full.state_dict().items() if not k.startswith(("feedforwards.0",))}
    for part in ("weight", "bias"):
        state[f"modulations.0.linear.{part}"] = state[f"modulations.0.linear.{part}"][:30]
    lean.load_state_dict(state)
    given = dict(text_tokens=randn(2, 5, 10), image_tokens=randn(2, 4, 6), time_cond=randn(2, COND))
    skipped = full(**given, skip_feedforward_text_tokens=True)
    for a, b in zip(skipped, lean(**given), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(skipped[0], full(**given)[0])
    with pytest.raises(ValueError, match="build with skip_feedforward_text_tokens=False"):
        lean(**given, skip_feedforward_text_tokens=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(time_cond=None), r"time_cond is missing: .* needs \(batch, 9\)"),
        (dict(time_cond=torch.zeros(2, 8)), r"time_cond for modality 0 must have the shape \(2, 9\).*got \(2, 8\)"),
        (dict(modality_masks=(None,)), r"masks must be a sequence of 3"),
        (dict(modality_tokens=(torch.zeros(2, 5, 10),)), r"modality_tokens must be a sequence of 3 tensors"),
        (dict(modality_tokens=tuple(torch.zeros(2, 5, 3) for _ in DIMS)), r"modality 0 tokens .*10\), got \(2, 5, 3\)"),
    ],
)
def test_wrong_calls_are_named(change, message):
    given = dict(modality_tokens=tokens(), modality_masks=None, time_cond=randn(2, COND)) | change
    with pytest.raises(ValueError, match=message):
        MMDiT(depth=1, **SIZES, dim_cond=COND)(**given)


def test_unwanted_conditioning_is_refused():
    with pytest.raises(ValueError, match="time_cond was passed, but this module was built without conditioning"):
        MMDiTBlock(**SIZES)(modality_tokens=tokens(), time_cond=randn(2, COND))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth=0), "depth must be at least 1"),
        (dict(discard=(3,)), "discard holds modality indexes below 3, got 3"),
        (dict(discard=(0, 1, 2)), "every input is discarded"),
        (dict(num_register_tokens=(1, 2)), "num_register_tokens must be one value or one for each"),
        (dict(num_register_tokens=-1), "num_register_tokens must be at least 0"),
        (dict(dual_blocks=(4,)), "dual_blocks holds block indexes below depth=1, got 4"),
        (dict(num_residual_streams=2, residual="plain"), "'plain' has 1 residual stream"),
        (dict(residual="manifold_hyper_connections"), "at least 2 residual streams"),
        (dict(residual="highway"), "residual must be one of plain"),
        (dict(adaln="one", dim_cond=4), "adaln must be one of zero, identity"),
        (dict(ff_kwargs=dict(width=3)), "ff_kwargs: unknown width"),
        (dict(ff_kwargs=dict(kind="relu")), "feedforward kind must be one of"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MMDiT(**(dict(depth=1, **SIZES) | options))


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="qk_rmsnrom"):
        MMDiT(depth=1, **SIZES, qk_rmsnrom=True)
