from __future__ import annotations

import pytest
import torch

from mmdit.networks.transformer import MMDiT, MMDiTBlock
from mmdit.options import BlockOptions, NormOptions
from tests.support import oracles
from tests.support.draws import as_read, drawn, padded_mask, randn
from tests.support.marks import slow_but
from tests.support.small_networks import COND, DIMS, SIZES, VARIANTS, tokens

MASKS = (padded_mask(5, 3, 5), None, padded_mask(7, 7, 2))


def oracle_options(options):
    return dict(
        kind=options.get("ff_kwargs", {}).get("kind", "gelu"),
        clamp=options.get("softclamp_value"),
        manifold=options.get("num_residual_streams", 1) > 1 and options.get("residual") is None,
    )


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "silu", "geglu", "geglu_tanh", "swiglu"])
def test_a_block_is_the_papers_figure(kind, conditioned):
    net = drawn(MMDiTBlock(**SIZES, dim_cond=COND if conditioned else None, bias=True, ff_kwargs=dict(kind=kind)))
    xs, cond = tokens(), randn(2, COND) if conditioned else None
    wanted = oracles.block(
        net.state_dict(), as_read(xs, MASKS), 2, MASKS, [cond] * 3 if conditioned else None, kind=kind
    )
    close(net(modality_tokens=xs, modality_masks=MASKS, time_cond=cond), wanted)


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_stand_around_the_branches_of_every_modality(kind, conditioned):
    options = BlockOptions(
        heads=2,
        dim_head=4,
        dim_cond=COND if conditioned else None,
        norm=NormOptions(kind=kind, weights="plain", place="around"),
        norm_eps=1e-2,
    )
    net = drawn(MMDiTBlock(options, dim_modalities=DIMS, dual=[1]))
    xs, cond = tokens(), randn(2, COND) if conditioned else None
    conds = [cond] * 3 if conditioned else None
    wanted = oracles.block(net.state_dict(), as_read(xs, MASKS), 2, MASKS, conds, eps=1e-2)
    close(net(modality_tokens=xs, modality_masks=MASKS, time_cond=cond), wanted)


@pytest.mark.parametrize("masks", slow_but([None, MASKS], MASKS), ids=["unmasked", "masked"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_is_its_formula_with_every_option_at_once(variant, masks):
    options = VARIANTS[variant]
    net = MMDiT(
        depth=2,
        **SIZES,
        dim_cond=COND,
        num_register_tokens=(1, 2, 0),
        final_norms=(True, False, True),
        discard=(0,),
        skip_last_feedforward=(1,),
        dual_blocks=(0,),
        norm_eps=1e-3,
        **(options | dict(qk_rmsnorm=False)),
    )
    xs, conds = tokens(), [randn(2, COND) for _ in DIMS]
    state, streams = drawn(net).state_dict(), options.get("num_residual_streams", 1)
    given, options = as_read(xs, masks), oracle_options(options)
    wanted = oracles.network(state, given, 2, masks, conds, depth=2, streams=streams, eps=1e-3, **options)
    assert wanted[0] is None
    close(net(modality_tokens=xs, modality_masks=masks, time_cond=conds), wanted)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "adaptive by sample"])
def test_a_network_without_conditioning_is_its_formula(variant):
    options, xs = VARIANTS[variant], tokens()
    net = drawn(MMDiT(depth=2, **SIZES, dual_blocks=(1,), **options))
    streams = options.get("num_residual_streams", 1)
    given, options = as_read(xs, MASKS), oracle_options(options)
    wanted = oracles.network(net.state_dict(), given, 2, MASKS, depth=2, streams=streams, **options)
    close(net(modality_tokens=xs, modality_masks=MASKS), wanted)


@pytest.mark.parametrize("count", [1, 2])
def test_any_number_of_modalities_makes_a_network(count):
    net = drawn(MMDiT(depth=2, dim_modalities=DIMS[:count], heads=2, dim_head=4, dim_cond=COND))
    xs, cond = tokens()[:count], randn(2, COND)
    given = as_read(xs, MASKS[:count])
    wanted = oracles.network(net.state_dict(), given, 2, MASKS[:count], [cond] * count, depth=2)
    close(net(modality_tokens=xs, modality_masks=MASKS[:count], time_cond=cond), wanted)


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


# Doubly stochastic mixing keeps equal streams equal, which all are before the first block, and keeps their sum, which
# is all that leaves the last one: these weights are there and decide nothing.
IDLE_MIXES = tuple(f"blocks.{where}_residuals.{i}.width.mix" for where in ("0.attn", "1.ff") for i in range(3))


def deep(variant) -> MMDiT:
    sizes = dict(depth=2, **SIZES, dim_cond=COND, num_register_tokens=2, discard=(0,))
    return drawn(MMDiT(**sizes, **VARIANTS[variant]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant):
    net = deep(variant)
    outs = net(modality_tokens=tokens(), modality_masks=MASKS, time_cond=randn(2, COND))
    sum((o * torch.randn_like(o)).sum() for o in outs if o is not None).backward()
    sizes = {
        name: 0.0 if p.grad is None else p.grad.square().mean().sqrt().item() for name, p in net.named_parameters()
    }
    typical = sorted(sizes.values())[
        len(sizes) // 2
    ]  # against it rounding is 1e-15, which `any()` takes for a gradient
    idle = [name for name, size in sizes.items() if size < 1e-9 * typical]
    assert idle == [name for name in sizes if "manifold" in variant and name in IDLE_MIXES]


@pytest.mark.xfail(reason="a manifold's first and last mixing weights are held though they decide nothing")
@pytest.mark.parametrize("variant", ["manifold", "static manifold"])
def test_a_network_holds_no_mixing_weight_that_decides_nothing(variant):
    assert not set(IDLE_MIXES).intersection(deep(variant).state_dict())


@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_tokens_and_their_number_change_no_valid_output(variant):
    net, xs, cond = deep(variant), tokens(), randn(2, COND)
    _, *outs = net(modality_tokens=xs, modality_masks=MASKS, time_cond=cond)
    assert [o.shape for o in outs] == [x.shape for x in xs[1:]]
    noisy, masks = [], []
    for x, mask in zip(xs, MASKS, strict=True):
        if mask is not None:
            x = torch.cat([torch.where(mask[..., None], x, randn(*x.shape) * 9), randn(2, 3, x.shape[-1])], 1)
            mask = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], 1)
        noisy.append(x), masks.append(mask)
    _, *changed = net(modality_tokens=noisy, modality_masks=masks, time_cond=cond)
    torch.testing.assert_close(outs[0], changed[0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(outs[1][MASKS[2]], changed[1][:, :7][MASKS[2]], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", slow_but([torch.float32, torch.bfloat16], torch.bfloat16))
@pytest.mark.parametrize("variant", slow_but(VARIANTS, *list(VARIANTS)[::2]))
def test_an_input_masked_whole_leaves_numbers_and_gradients_finite(variant, dtype):
    net = drawn(MMDiT(depth=2, **SIZES, dim_cond=COND, **VARIANTS[variant])).to(dtype)
    masks = (torch.tensor([[False] * 5, [True] * 5]), None, None)
    xs = [x.to(dtype) for x in tokens()]
    outs = net(modality_tokens=xs, modality_masks=masks, time_cond=torch.randn(2, COND, dtype=dtype))
    sum(o.float().square().sum() for o in outs).backward()
    assert all(o.isfinite().all() for o in outs)
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("variant", slow_but(VARIANTS, *list(VARIANTS)[::4]))
def test_recomputing_activations_changes_no_gradient(variant):
    net = drawn(MMDiT(depth=2, **SIZES, dim_cond=COND, **VARIANTS[variant]))
    xs, cond, grads = tokens(), randn(2, COND), []
    for recompute in (False, True):
        net.checkpoint_activations = recompute
        net.zero_grad()
        sum(o.square().sum() for o in net(modality_tokens=xs, modality_masks=MASKS, time_cond=cond)).backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_dropout_is_the_same_again_where_activations_are_recomputed(monkeypatch):
    seen = []
    keep = torch.utils.checkpoint.get_device_states
    monkeypatch.setattr(torch.utils.checkpoint, "get_device_states", lambda *args: seen.append(args) or keep(*args))
    monkeypatch.setattr(torch.utils.checkpoint, "_infer_device_type", lambda *args: seen.append(args) or "cpu")
    single = dict(single_stream="parallel", single_stream_depth=1, dim_modalities=(8, 8, 8), heads=2, dim_head=4)
    net = drawn(MMDiT(depth=2, dim_cond=COND, ff_kwargs=dict(dropout=0.5), **single))
    xs, cond, grads = [x[..., :1].expand(-1, -1, 8) for x in tokens()], randn(2, COND), []
    for recompute in (False, True):
        net.checkpoint_activations = recompute
        net.zero_grad()
        torch.manual_seed(0)
        outs = net(modality_tokens=xs, time_cond=cond)
        torch.manual_seed(1)  # the backward pass goes back to the forward's
        sum(o.square().sum() for o in outs).backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    # torch keeps the random state of the devices that it finds here, and of no other
    assert [len(args) for args in seen if args] == [3, 3, 1]
    assert all(isinstance(x, torch.Tensor) for args in seen for x in args)


def test_each_modality_can_have_a_conditioning_of_its_own():
    net, xs, conds = drawn(MMDiT(depth=1, **SIZES, dim_cond=COND)), tokens(), [randn(2, COND) for _ in DIMS]
    same = net(modality_tokens=xs, time_cond=[conds[0]] * 3)
    for a, b in zip(same, net(modality_tokens=xs, time_cond=conds[0]), strict=True):
        assert torch.equal(a, b)
    other = net(modality_tokens=xs, time_cond=[conds[0], conds[1], conds[0]])
    assert not torch.allclose(other[1], same[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(time_cond=None), r"time_cond is missing: .* needs \(batch, 9\)"),
        (dict(time_cond=torch.zeros(3, 9)), r"time_cond for text must have the shape \(2, 9\).*got \(3, 9\)"),
        (dict(time_cond=[torch.zeros(2, 9)] * 2), "time_cond must be one tensor or one for each of text, video, audio"),
        (
            dict(time_cond=[torch.zeros(2, 9), torch.zeros(2, 9), torch.zeros(2, 7)]),
            r"time_cond for audio must have the shape \(2, 9\).*got \(2, 7\)",
        ),
        (
            dict(modality_masks=(None, torch.ones(2, 5).bool(), None)),
            r"video mask must have the shape \(2, 4\) .*got \(2, 5\)",
        ),
        (
            dict(modality_masks=(None, None, torch.ones(2, 7).int())),
            "audio mask must be of dtype torch.bool.*got torch.int32",
        ),
        (
            dict(modality_tokens=(torch.zeros(2, 5, 10), torch.zeros(3, 4, 6), torch.zeros(2, 7, 8))),
            "video tokens have a batch of 3, but text tokens have one of 2",
        ),
        (dict(skip_last_feedforward=(3,)), "skip_feedforward holds modality indexes below 3, got 3"),
        (dict(time_cond=torch.zeros(2, 8)), r"time_cond for text must have the shape \(2, 9\).*got \(2, 8\)"),
        (dict(modality_masks=(None,)), r"masks must be a sequence of 3"),
        (dict(modality_tokens=(torch.zeros(2, 5, 10),)), r"modality_tokens must be a sequence of 3 tensors"),
        (dict(modality_tokens=tuple(torch.zeros(2, 5, 3) for _ in DIMS)), r"text tokens .*10\), got \(2, 5, 3\)"),
    ],
)
def test_wrong_calls_are_named(change, message):
    given = dict(modality_tokens=tokens(), modality_masks=None, time_cond=randn(2, COND)) | change
    with pytest.raises(ValueError, match=message):
        MMDiT(depth=1, **SIZES, dim_cond=COND, modality_names=("text", "video", "audio"))(**given)


def test_streams_are_asked_for_where_a_block_has_them():
    with pytest.raises(ValueError, match=r"modality 0 tokens must have the shape \(batch, length, streams, 10\)"):
        MMDiTBlock(**SIZES, num_residual_streams=2)(modality_tokens=tokens())


def test_unwanted_conditioning_is_refused():
    with pytest.raises(ValueError, match="time_cond was passed, but this module was built without conditioning"):
        MMDiTBlock(**SIZES)(modality_tokens=tokens(), time_cond=randn(2, COND))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth=0), "depth: there would be no block at all; set depth > 0, or single_stream"),
        (dict(depth=-1), "depth: expected a number >= 0, got -1"),
        (dict(discard=(3,)), "discard holds modality indexes below 3, got 3"),
        (dict(discard=(0, 1, 2)), "discard: every modality is discarded"),
        (dict(num_register_tokens=(1, 2)), "num_register_tokens must be one value or one for each"),
        (dict(num_register_tokens=-1), "num_register_tokens: expected a number >= 0 or a list, got -1"),
        (dict(dual_blocks=(4,)), "dual_blocks.0: block 4 does not exist; depth is 1"),
        (dict(num_residual_streams=2, residual="plain"), "num_residual_streams: kind 'plain' has 1 stream, got 2"),
        (dict(num_residual_streams=0), "num_residual_streams: expected a number >= 1, got 0"),
        (dict(residual="manifold_hyper_connections"), "num_residual_streams: .* needs at least 2 streams, got 1"),
        (dict(residual="highway"), "residual: expected one of plain, .* got 'highway'"),
        (dict(adaln="one", dim_cond=4), "adaln: expected one of zero, identity, got 'one'"),
        (dict(ff_kwargs=dict(width=3)), "ff_kwargs: unknown width"),
        (dict(ff_kwargs=dict(kind="relu")), "ff_kwargs.kind: expected one of gelu, .* got 'relu'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MMDiT(**(dict(depth=1, **SIZES) | options))


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="qk_rmsnrom"):
        MMDiT(depth=1, **SIZES, qk_rmsnrom=True)
