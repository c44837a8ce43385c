from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmdit import JointAttention
from mmdit.options import AttentionOptions, JointAttentionOptions
from mmdit.packing import Packing
from tests.support import oracles
from tests.support.draws import as_read, drawn, padded_mask, randn

DIMS, LENGTHS, HEADS, DIM_HEAD = (10, 6, 8), (5, 4, 7), 2, 4
MASKS = [padded_mask(5, 3, 5), None, padded_mask(7, 7, 2)]


def build(**options) -> JointAttention:
    return drawn(JointAttention(**(dict(dim_inputs=DIMS, heads=HEADS, dim_head=DIM_HEAD) | options)))


def inputs(batch: int = 2, lengths=LENGTHS):
    return [randn(batch, n, d) for n, d in zip(lengths, DIMS, strict=False)]


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


OPTIONS = {
    "standard": {},
    "bias": dict(bias=True),
    "explicit": dict(flash_attn=False),
    "soft-clamped": dict(softclamp=True, softclamp_value=0.7),
    "qk-norm": dict(qk_rmsnorm=True),
    "shared qk-norm": dict(qk_rmsnorm=True, qk_norm_shared=True),
    "2 weights a token": dict(num_adaptive_weights=2),
    "4 weights a token": dict(num_adaptive_weights=4, bias=True, qk_rmsnorm=True, softclamp=True, softclamp_value=0.7),
    "3 weights a sample": dict(num_adaptive_weights=3, gating="sample", dim_cond=9),
    "2 weights a sample, bias": dict(num_adaptive_weights=2, gating="sample", dim_cond=9, bias=True),
}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_is_one_attention_over_the_joined_sequences(options, masked, count):
    net, xs = build(**options, dim_inputs=DIMS[:count]), inputs()[:count]
    masks = MASKS[:count] if masked else None
    conds = [randn(2, 9) for _ in xs] if "gating" in options else None
    wanted = oracles.joint_attention(
        net.state_dict(), as_read(xs, masks), HEADS, masks, clamp=options.get("softclamp_value"), conds=conds
    )
    close(net(xs, masks, conds), wanted)


@pytest.mark.parametrize(
    "options",
    [{}, dict(bias=True), dict(softclamp=0.7), dict(qk_norm_scale="per_head")],
    ids=lambda x: [*x, "plain"][0],
)
@pytest.mark.parametrize("how", ["joined", "packed", "discarded"])
def test_a_head_of_keys_and_values_serves_several_heads_of_queries(options, how):
    sizes = dict(dim_inputs=DIMS, discard=[0] if how == "discarded" else [])
    few, all_ = (
        JointAttention(
            JointAttentionOptions(
                heads=4,
                dim_head=3,
                qk_rmsnorm="qk_norm_scale" in options,
                attention=AttentionOptions(kv_heads=count, **options),
            ),
            **sizes,
        )
        for count in (2, None)
    )
    state = drawn(few).state_dict()
    for name, x in state.items():
        if "to_qkv" in name:
            *q, k, v = x.split([12, 6, 6] if len(x) == 24 else [6, 6])
            repeated = [part.unflatten(0, (2, 3)).repeat_interleave(2, 0).flatten(0, 1) for part in (k, v)]
            state[name] = torch.cat([*q, *repeated])
        elif "k_norms" in name:
            state[name] = x.repeat_interleave(2, 0)
    all_.double().load_state_dict(state)
    xs, masks = inputs(), None if how == "packed" else MASKS
    packing = Packing.from_masks([None] * 3, LENGTHS, 2) if how == "packed" else None
    if packing is not None:
        xs = [packing.pack(x, i) for i, x in enumerate(xs)]
    for got, wanted in zip(few(xs, masks, packing=packing), all_(xs, masks, packing=packing), strict=True):
        assert (got is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("options", [{}, dict(softclamp=0.7), dict(kv_heads=2)], ids=lambda x: [*x, "plain"][0])
def test_a_scale_of_the_logits_is_one_of_the_queries(options, packed):
    """In place of 1 / sqrt(4): as if queries were 0.3 * 2 times as large."""
    scaled, plain = (
        JointAttention(
            JointAttentionOptions(heads=4, dim_head=4, attention=AttentionOptions(scale=scale, **options)),
            dim_inputs=DIMS,
        ).double()
        for scale in (0.3, None)
    )
    state = drawn(scaled).state_dict()
    for name, x in state.items():
        if "to_qkv" in name:
            state[name] = torch.cat([0.6 * x[:16], x[16:]])
    plain.load_state_dict(state)
    xs = inputs()
    packing = Packing.from_masks([None] * 3, LENGTHS, 2) if packed else None
    if packing is not None:
        xs = [packing.pack(x, i) for i, x in enumerate(xs)]
    for got, wanted in zip(scaled(xs, packing=packing), plain(xs, packing=packing), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("how", ["joined", "masked", "packed", "discarded"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(bias=True),
        dict(kv_heads=1),
        dict(kind="adaptive", num_adaptive_weights=2),
        dict(softclamp=0.7),
        dict(out_gate="per_head", bias=True),
    ],
    ids=lambda x: [*x, "plain"][0],
)
def test_a_gate_multiplies_each_feature_of_each_head_or_each_head_before_the_out_projection(options, how):
    sizes = dict(dim_inputs=DIMS, discard=[0] if how == "discarded" else [])
    gated, plain = (
        JointAttention(
            JointAttentionOptions(heads=2, dim_head=4, attention=AttentionOptions(**options | gate)), **sizes
        ).double()
        for gate in ({"out_gate": options.get("out_gate", True)}, {"out_gate": False})
    )
    state = drawn(gated).state_dict()
    gates = {name: state.pop(name) for name in [*state] if name.startswith("out_gates")}
    assert len(gates) == (2 if how == "discarded" else 3) * (2 if "bias" in options else 1)
    plain.load_state_dict(state)
    xs, masks = inputs(), MASKS if how == "masked" else None
    packing = Packing.from_masks(MASKS, LENGTHS, 2) if how == "packed" else None
    if packing is not None:
        xs = [packing.pack(x, i) for i, x in enumerate(xs)]

    def by_hand(i):
        def gate(module, args):
            logits = torch.einsum("bne,fe->bnf", as_read(xs, masks)[i], gates[f"out_gates.{i}.linear.weight"])
            logits = logits + gates.get(f"out_gates.{i}.linear.bias", 0)
            attended, *rest = args
            return attended / (1 + (-logits).exp().unflatten(-1, (2, -1))), *rest

        return gate

    for i, out in enumerate(plain.to_out):
        out.register_forward_pre_hook(by_hand(i))
    for got, wanted in zip(gated(xs, masks, packing=packing), plain(xs, masks, packing=packing), strict=True):
        assert (got is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(("shared", "shape"), [(False, (HEADS, DIM_HEAD)), (True, (DIM_HEAD,))])
def test_queries_and_keys_have_a_scale_for_every_head_or_share_one(shared, shape):
    net = build(qk_rmsnorm=True, qk_norm_shared=shared)
    assert {norm.weight.shape for norm in [*net.q_norms, *net.k_norms]} == {shape}


@pytest.mark.parametrize("options", [{}, dict(softclamp=True), dict(num_adaptive_weights=2)])
def test_masked_tokens_get_no_gradient_from_valid_outputs(options):
    net, xs = build(**options), [x.requires_grad_() for x in inputs()]
    outs = net(xs, MASKS)
    sum((o if m is None else o[m]).sin().sum() for o, m in zip(outs, MASKS, strict=True)).backward()
    for x, mask in zip(xs, MASKS, strict=True):
        assert mask is None or not x.grad[~mask].any()
        assert (x.grad if mask is None else x.grad[mask]).ne(0).all()


def test_one_adaptive_weight_is_standard_attention_to_the_bit():
    xs = inputs()
    one, standard = build(num_adaptive_weights=1), build()
    one.load_state_dict(standard.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one(xs, MASKS), standard(xs, MASKS), strict=True))


def test_gates_of_all_weight_on_one_matrix_are_that_matrix():
    net, standard, xs = build(num_adaptive_weights=2), build(), inputs()
    with torch.no_grad():
        for i in range(3):
            for adaptive, single in ((net.to_qkv[i], standard.to_qkv[i]), (net.to_out[i], standard.to_out[i])):
                adaptive.weight[:] = single.linear.weight
    close(net(xs), standard(xs))


def test_the_results_of_all_weights_are_never_held_together():
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return out

    weights, tokens, inner = 8, 64, 16
    net = JointAttention(dim_inputs=[16], heads=2, dim_head=8, num_adaptive_weights=weights, bias=True)
    with Largest() as largest:
        net([torch.randn(1, tokens, 16, requires_grad=True)])
    # queries, keys and values of all tokens; one of the three for all weights would be 8 / 3 of it
    assert largest.elements == tokens * 3 * inner


@pytest.mark.parametrize(
    "options", [{}, dict(num_adaptive_weights=2), dict(softclamp=True), dict(qk_rmsnorm=True), dict(flash_attn=False)]
)
def test_masked_tokens_change_no_valid_output_and_neither_does_their_number(options):
    net, xs = build(**options), inputs()
    before = net(xs, MASKS)
    changed = [
        x if m is None else torch.where(m[..., None], x, randn(*x.shape) * 50) for x, m in zip(xs, MASKS, strict=True)
    ]
    longer = [
        torch.cat([x, randn(2, 6, x.shape[-1])], 1) if m is not None else x for x, m in zip(changed, MASKS, strict=True)
    ]
    longer_masks = [None if m is None else torch.cat([m, torch.zeros(2, 6, dtype=torch.bool)], 1) for m in MASKS]
    for after in (net(changed, MASKS), net(longer, longer_masks)):
        for a, b, m in zip(before, after, MASKS, strict=True):
            valid = slice(None) if m is None else m
            torch.testing.assert_close(a[valid], b[:, : a.shape[1]][valid], rtol=1e-9, atol=1e-11)


CONDITIONED = dict(num_adaptive_weights=2, gating="sample", dim_cond=9)
HARD = [
    {},
    dict(softclamp=True),
    dict(flash_attn=False),
    dict(num_adaptive_weights=2),
    dict(qk_rmsnorm=True),
    CONDITIONED,
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", HARD)
def test_a_modality_masked_whole_gives_finite_numbers_and_gradients(options, dtype):
    net = build(**options).to(dtype)
    xs = [x.to(dtype).requires_grad_() for x in inputs()]
    cond = torch.randn(2, 9, dtype=dtype) if options is CONDITIONED else None
    outs = net(xs, [torch.zeros(2, 5, dtype=torch.bool), None, None], cond)
    sum(o.float().square().sum() for o in outs).backward()
    assert all(o.isfinite().all() for o in outs)
    assert all(x.grad.isfinite().all() for x in xs)
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", HARD)
def test_a_sample_without_any_valid_token_gives_zeros(options, dtype):
    net, xs = build(**options).to(dtype), [x.to(dtype).requires_grad_() for x in inputs()]
    cond = torch.randn(2, 9, dtype=dtype) if options is CONDITIONED else None
    masks = [torch.ones(2, n, dtype=torch.bool) for n in LENGTHS]
    for mask in masks:
        mask[0] = False
    outs = net(xs, masks, cond)
    sum(o.float().square().sum() for o in outs).backward()
    assert all((o[0] == 0).all() and (o[1] != 0).any() for o in outs)
    assert all((x.grad[0] == 0).all() and x.grad.isfinite().all() for x in xs)
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_a_sample_without_any_valid_token_gives_the_bias_where_the_out_projection_has_one():
    net, xs = build(bias=True), inputs()
    outs = net(xs, [torch.zeros(2, n, dtype=torch.bool) for n in LENGTHS])
    for out, projection in zip(outs, net.to_out, strict=True):
        assert torch.equal(out, projection.linear.bias.expand_as(out))


def test_no_mask_reaches_the_kernel_where_none_was_given():
    real = torch.nn.functional.scaled_dot_product_attention
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", side_effect=real) as kernel:
        build()(inputs(), [None, None, None])
    (call,) = kernel.call_args_list
    assert call.args[3:] == (None,) and not call.kwargs


class Copies(TorchDispatchMode):
    """The sizes of what is copied into another layout."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.clone.default, torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default):
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("packed", [False, True])
def test_what_a_gpus_kernel_returns_is_projected_without_a_copy(packed):
    """The meta device stands in for a GPU: its attention gives the layout of the queries, as the fused kernels do."""
    net = JointAttention(dim_inputs=DIMS, heads=HEADS, dim_head=DIM_HEAD).to("meta")
    packing = Packing(tuple((n, 2) for n in LENGTHS)) if packed else None
    xs = [torch.empty(1, n + 2 * packed, d, device="meta") for n, d in zip(LENGTHS, DIMS, strict=True)]
    with mock.patch.object(net.attend, "forward", lambda q, *_, **__: torch.empty_like(q)), Copies() as copies:
        outs = net(xs, packing=packing)
    assert [out.shape for out in outs] == [x.shape for x in xs]
    assert copies.shapes == []


@pytest.mark.parametrize("weights", [1, 3])
def test_a_discarded_input_is_attended_to_and_holds_no_unneeded_weight(weights):
    full, net = build(num_adaptive_weights=weights), build(num_adaptive_weights=weights, discard=[0])
    state, inner = full.state_dict(), HEADS * DIM_HEAD
    for name in list(state):
        if name.startswith("to_qkv.0") and name.endswith("weight"):
            state[name] = state[name][..., inner:, :]
        elif name.startswith("to_out.0"):
            del state[name]
    net.load_state_dict(state)
    xs = inputs()
    none, *kept = net(xs, MASKS)
    assert none is None
    close(kept, full(xs, MASKS)[1:])
    sum(o.sum() for o in kept).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_unused_queries_are_kept_and_change_nothing():
    net, lean = build(discard=[0], unused_weights="queries", bias=True), build(discard=[0], bias=True)
    state, inner = net.state_dict(), HEADS * DIM_HEAD
    assert state["to_qkv.0.linear.weight"].shape[0] == 3 * inner
    lean.load_state_dict({k: v[inner:] if k.startswith("to_qkv.0") else v for k, v in state.items()})
    xs = inputs()
    close(net(xs)[1:], lean(xs)[1:])
    sum(o.sin().sum() for o in net(xs)[1:]).backward()
    grad = net.to_qkv[0].linear.weight.grad
    assert not grad[:inner].any() and grad[inner:].ne(0).all()


def test_an_empty_modality_and_an_empty_batch_are_legal():
    net = build()
    assert [o.shape for o in net(inputs(lengths=(0, 4, 7)))] == [(2, 0, 10), (2, 4, 6), (2, 7, 8)]
    assert [o.shape for o in net(inputs(batch=0))] == [(0, 5, 10), (0, 4, 6), (0, 7, 8)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda xs: (xs[:2], None), r"inputs must be a sequence of 3 tensors .* got 2 tensors"),
        (lambda xs: ([xs[0], xs[1][..., :5], xs[2]], None), r"video tokens .* \(batch, length, 6\), got \(2, 4, 5\)"),
        (
            lambda xs: ([xs[0], xs[1][:1], xs[2]], None),
            r"video tokens have a batch of 1, but text tokens have one of 2",
        ),
        (lambda xs: (xs, [None, None]), r"masks must be a sequence of 3"),
        (lambda xs: (xs, [MASKS[0][:, :4], None, None]), r"text mask must have the shape \(2, 5\).*got \(2, 4\)"),
        (lambda xs: (xs, [MASKS[0].float(), None, None]), r"text mask must be of dtype torch.bool.*got torch.float32"),
    ],
)
def test_wrong_inputs_are_named_with_what_was_got_and_wanted(change, message):
    with pytest.raises(ValueError, match=message):
        build(names=("text", "video", "audio"))(*change(inputs()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim_joint_attn": 100}, "must be a multiple of dim_head=64, got 100"),
        ({"dim_joint_attn": 64, "heads": 3, "dim_head": 16}, "3 \\* 16 = 48, got 64"),
        ({"flash_attn": True, "softclamp": True}, "flash_attn: no fused kernel can soft-clamp"),
        ({"softclamp": True, "softclamp_value": 0.0}, "softclamp_value: expected a number > 0, got 0.0"),
        ({"num_adaptive_weights": 0}, "num_adaptive_weights: expected a number >= 1, got 0"),
        ({"num_adaptive_weights": 2, "gating": "sample"}, "set dim_cond"),
        ({"num_adaptive_weights": 2, "gating": "head"}, "gating: expected one of token, sample, got 'head'"),
        ({"discard": [0]}, "every input is discarded"),
    ],
)
def test_options_that_exclude_one_another_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        JointAttention(dim_inputs=[8], **options)


def test_a_packing_in_place_of_masks_is_named():
    attention = JointAttention(dim_inputs=(8, 8), heads=2, dim_head=4)
    with pytest.raises(ValueError, match="a Packing in place of masks is for a whole stack"):
        attention([torch.ones(1, 2, 8)] * 2, Packing.from_masks([None, None], [2, 2], 1))
