from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention

import mmdit
from benchmarks.families.diffusers_networks import FAMILIES
from mmdit.networks.transformer import MMDiT
from mmdit.packing import Packing
from mmdit_cli.memory.estimate import estimate
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.request.tool_config import as_tool_config
from tests.support.draws import drawn, padded_mask, randn
from tests.support.families import each_kind
from tests.support.marks import slow_but
from tests.support.small_networks import COND, DIMS, LENGTHS, SIZES, VARIANTS, tokens

# sample 0 ends early, 1 has gaps, 2 is without text
MASKS = (
    torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool),
    None,
    torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0, 0]], dtype=torch.bool),
)
SINGLE = dict(dim_modalities=(8, 8), heads=2, dim_head=4, rotary_axes=(2, 2), num_register_tokens=(1, 2))


def both(net, xs, masks, **arguments):
    """The padded run and the packed one, on the same weights."""
    net.varlen = False
    padded = net(modality_tokens=xs, modality_masks=masks, **arguments)
    net.varlen = True
    return padded, net(modality_tokens=xs, modality_masks=masks, **arguments)


def check_same(net, xs, masks, **arguments):
    """Outputs at valid positions and the gradients of every parameter; zeros at the padding."""
    gradients = []
    for outs in both(net, xs, masks, **arguments):
        net.zero_grad()
        valid = [
            (x if mask is None else x[mask], mask, x) for x, mask in zip(outs, masks, strict=True) if x is not None
        ]
        sum(x.pow(3).sum() for x, _, _ in valid).backward()
        gradients.append((valid, {name: p.grad for name, p in net.named_parameters()}))
    (padded, wanted), (packed, got) = gradients
    for (a, _, _), (b, mask, whole) in zip(padded, packed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
        assert mask is None or not whole[~mask].any()
    for name, gradient in wanted.items():
        if gradient is None:
            assert got[name] is None or not got[name].any()
        else:
            torch.testing.assert_close(
                got[name], gradient, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
            )


KEPT, RECOMPUTED = ([(variant, how) for variant in VARIANTS] for how in ("kept", "recomputed"))


@pytest.mark.parametrize("case", slow_but(KEPT + RECOMPUTED, *KEPT[::2], ("qk-norm", "recomputed")), ids=", ".join)
def test_a_packed_run_is_the_padded_one_at_valid_positions(case):
    options, checkpointed = VARIANTS[case[0]], case[1] == "recomputed"
    net = MMDiT(
        depth=2,
        **SIZES,
        dim_cond=COND,
        num_register_tokens=(1, 2, 0),
        discard=(0,),
        skip_last_feedforward=(1,),
        dual_blocks=(0,),
        checkpoint_activations=checkpointed,
        **options,
    )
    check_same(drawn(net), tokens(3), MASKS, time_cond=[randn(3, COND) for _ in DIMS])


@pytest.mark.parametrize("each", [False, True], ids=["one conditioning", "one each"])
@pytest.mark.parametrize("kind", ["parallel", "sequential"])
@pytest.mark.parametrize("shared", [False, True], ids=["own modulation", "shared"])
def test_it_is_so_in_single_streams_on_rotary_axes(kind, shared, each):
    net = drawn(
        MMDiT(**SINGLE, depth=1, single_stream_depth=2, single_stream=kind, shared_modulation=shared, dim_cond=COND)
    )
    cond = [randn(3, COND) for _ in range(2)] if each else randn(3, COND)
    xs, places = (randn(3, 5, 8), randn(3, 7, 8)), [None, randn(7, 2)]
    check_same(net, xs, (MASKS[0], MASKS[2]), time_cond=cond, modality_positions=places)
    check_same(net, xs, (MASKS[0], None), time_cond=cond, modality_positions=[randn(3, 5, 2), places[1]])


@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_so_without_conditioning_and_for_one_sample(batch):
    net = drawn(MMDiT(depth=2, **SIZES))
    check_same(net, tokens(batch), tuple(None if m is None else m[:batch] for m in MASKS))


def test_it_is_so_where_a_norm_of_zeros_is_not_a_number():
    check_same(drawn(MMDiT(depth=1, **SIZES, num_register_tokens=(1, 2, 0), norm_eps=0.0)), tokens(3), MASKS)


def test_samples_of_one_length_attend_in_one_call(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "mmdit.layers.attention.F.scaled_dot_product_attention",
        lambda q, *rest: calls.append(len(q)) or scaled_dot_product_attention(q, *rest),
    )
    net, xs = (
        drawn(MMDiT(depth=1, dim_modalities=(8, 8), heads=2, dim_head=4, varlen=True)),
        (randn(3, 5, 8), randn(3, 4, 8)),
    )
    net(modality_tokens=xs, modality_masks=(padded_mask(5, 2, 2, 2), None))
    net(modality_tokens=xs, modality_masks=(padded_mask(5, 2, 3, 2), None))
    assert calls == [3, 1, 1, 1]


def test_nothing_is_packed_or_masked_where_nothing_is_padded(monkeypatch):
    masks = []
    monkeypatch.setattr(
        "mmdit.layers.attention.F.scaled_dot_product_attention",
        lambda q, k, v, mask=None: masks.append((len(q), mask)) or scaled_dot_product_attention(q, k, v),
    )
    net, xs = drawn(MMDiT(depth=1, **SIZES, varlen=True)), tokens(2)
    net(modality_tokens=xs, modality_masks=(padded_mask(5, 5, 5), None, None))
    assert masks == [(2, None)]


def test_a_packing_serves_many_calls_and_replaces_the_masks():
    net, xs = drawn(MMDiT(depth=2, **SIZES, dim_cond=COND)), tokens(3)
    packing = Packing.from_masks(MASKS, LENGTHS, 3)
    assert packing.lengths == ((2, 3, 0), (4, 4, 4), (3, 7, 1)) and packing.has_padding
    for cond in (randn(3, COND), randn(3, COND)):
        wanted = net(modality_tokens=xs, modality_masks=MASKS, time_cond=cond)
        got = net(modality_tokens=xs, modality_masks=packing, time_cond=cond)
        for a, b, mask in zip(got, wanted, MASKS, strict=True):
            torch.testing.assert_close(*((a, b) if mask is None else (a[mask], b[mask])))
    with pytest.raises(ValueError, match=r"the packing is for 3 samples of \(5, 4, 7\) tokens, got 2 of \(5, 4, 7\)"):
        net(modality_tokens=tokens(2), modality_masks=packing, time_cond=randn(2, COND))


def test_what_is_joined_comes_apart_again():
    packing = Packing(((2, 0, 3), (1, 4, 0)))
    parts = [torch.arange(5.0).view(1, 5, 1), torch.arange(10.0, 15).view(1, 5, 1)]
    joined = packing.join(parts)
    assert joined.flatten().tolist() == [0, 1, 10, 11, 12, 13, 14, 2, 3, 4]
    assert all(torch.equal(a, b) for a, b in zip(packing.split(joined), parts, strict=True))
    assert packing.joined().lengths == ((3, 4, 3),)
    segments = packing.segments((1,), torch.device("cpu"))
    assert segments.query_offsets.tolist() == [0, 1, 5, 5] and segments.key_offsets.tolist() == [0, 3, 7, 10]


# ------------------------------------------------------------------------------------------------------ whole networks


def network(family):
    """A small one of the published networks, all weights drawn."""
    torch.manual_seed(3)
    return drawn(mmdit.build(family.small_config()))


@pytest.mark.parametrize("varlen", slow_but([False, True], True), ids=["padded", "packed"])
@each_kind
def test_images_and_captions_of_many_sizes_share_a_batch(family, varlen):
    net = network(family)
    net.transformer.varlen = varlen
    drawn, embed = family.drawn, net.inputs[family.drawn]
    frames = ((2,), (4,), (2,)) if len(embed.sizes) == 3 else ((), (), ())
    sizes = [(*f, *size) for f, size in zip(frames, ((4, 8), (8, 8), (6, 4)), strict=True)]
    given = {drawn: [randn(embed.channels, *size) for size in sizes]}
    for name in net.inputs.keys() - {drawn}:
        given[name] = [randn(n, net.inputs[name].dim_in) for n in (3, 7, 5)]
    t = torch.tensor([100.0, 500.0, 900.0]).double()
    config = net.config
    extra = {} if config.pooled is None else dict(pooled=randn(3, config.pooled.dim))
    extra |= {} if config.guidance is None else dict(guidance=t / 300)
    extra |= {} if config.timestep.second is None else dict(second_timestep=t / 2)
    t = t / config.timestep.scale
    got = net(given, t, **extra)[drawn]
    assert [x.shape[1:] for x in got] == [x.shape[1:] for x in given[drawn]]
    for i in range(3):
        own = {name: x[i : i + 1] for name, x in extra.items()}
        alone = net({name: x[i][None] for name, x in given.items()}, t[i : i + 1], **own)[drawn]
        torch.testing.assert_close(got[i], alone[0], rtol=1e-9, atol=1e-10)


def test_a_list_of_equal_sizes_is_a_batch():
    net = network(FAMILIES[0])
    channels, dim = net.inputs["image"].channels, net.inputs["text"].dim_in
    images, texts, t = randn(2, channels, 8, 4), randn(2, 5, dim), torch.tensor([0.3, 0.8]).double()
    pooled = randn(2, net.config.pooled.dim)
    wanted = net({"text": texts, "image": images}, t, pooled)["image"]
    got = net({"text": list(texts), "image": list(images)}, t, pooled)["image"]
    torch.testing.assert_close(torch.stack(got), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("inputs", "masks", "message"),
    [
        (dict(text=[randn(3, 4)], image=randn(2, 3, 4, 4)), None, "image has a batch of 2, but text has one of 1"),
        (
            dict(text=[], image=randn(2, 3, 4, 4)),
            None,
            "text is an empty list; it must hold one tensor for each sample",
        ),
        (
            dict(text=[randn(3, 4), randn(2, 4)], image=randn(2, 3, 4, 4)),
            dict(text=torch.ones(2, 3, dtype=torch.bool)),
            "text is a list of samples, whose sizes say what is valid; leave it out of masks",
        ),
        (
            dict(text=randn(2, 3, 4), image=[randn(3, 4, 4), randn(1, 4, 4)]),
            None,
            r"image\[1\] \(with a batch of 1\) must have the shape \(batch, 3, height, width\), got \(1, 1, 4, 4\)",
        ),
        (
            dict(text=[randn(3, 4), randn(2, 4)], image=randn(2, 3, 4, 4)),
            Packing.from_masks([None, None], [3, 4], 2),
            "samples of different sizes are packed by their own sizes; pass no Packing",
        ),
    ],
)
def test_lists_that_fit_nothing_are_refused(inputs, masks, message):
    net = mmdit.build(config().model).double()
    with pytest.raises(ValueError, match=message):
        net(inputs, torch.ones(2).double(), masks=masks)


# ------------------------------------------------------------------------------------------------------------ the tool


def config(mask=1.0, **changes):
    model = dict(
        depth=2,
        modalities=dict(
            text=dict(dim=8, input=dict(kind="linear", dim=4)),
            image=dict(dim=8, input=dict(kind="patches", channels=3, patch=2), output=dict(kind="patches", channels=3)),
        ),
        dim_cond=8,
        timestep=dict(frequencies=4),
        heads=2,
        dim_head=4,
    )
    run = dict(batch_size=2, tokens=dict(text=16, image=16), mask=dict(text=mask))
    return as_tool_config(dict(name="small", model=model | changes, run=run))


@pytest.mark.slow
@pytest.mark.parametrize("bare", slow_but([False, True], True), ids=["network", "two-modality"])
def test_flops_and_memory_of_a_packed_run_are_those_of_the_valid_tokens(bare):
    options = dict(variant="two_modality", modalities=dict(text=dict(dim=8), image=dict(dim=8)), timestep=None)
    changes = options if bare else {}
    packed, masked = config(0.25, varlen=True, **changes), config(0.25, **changes)
    shorter = config(**changes)
    shorter = replace(shorter, run=replace(shorter.run, tokens=dict(text=4, image=16), mask={}))
    embedding = 0 if bare else 2 * 2 * (16 - 4) * 4 * 8  # captions are embedded before they are packed
    assert count_flops(packed).forward_flops == count_flops(shorter).forward_flops + embedding
    assert count_flops(masked).forward_flops > count_flops(packed).forward_flops
    peaks = [
        estimate(each, "train", torch.float32, torch.device("cpu"), whole=True).activations for each in (packed, masked)
    ]
    assert peaks[0] < peaks[1]


@pytest.mark.slow
def test_counting_and_estimating_work_where_a_mask_leaves_nothing_out():
    full = config(1.0, varlen=True)
    assert count_flops(full).forward_flops == count_flops(config(1.0)).forward_flops
    assert estimate(full, "forward", torch.float32, torch.device("cpu"), whole=True).peak > 0


def test_nothing_at_all_may_be_valid_and_a_batch_may_be_empty():
    net = drawn(MMDiT(depth=2, **SIZES, dim_cond=COND, discard=(0,), varlen=True))
    masks = [torch.zeros(2, n, dtype=torch.bool) for n in LENGTHS]
    outs = net(modality_tokens=tokens(2), modality_masks=masks, time_cond=randn(2, COND))
    assert outs[0] is None and all(not x.any() for x in outs[1:])
    text_alone = [torch.ones(2, LENGTHS[0], dtype=torch.bool), *masks[1:]]
    outs = net(modality_tokens=tokens(2), modality_masks=text_alone, time_cond=randn(2, COND))
    assert all(not x.any() for x in outs[1:])
    empty = [mask[:0] for mask in masks]
    outs = net(modality_tokens=tokens(0), modality_masks=empty, time_cond=randn(0, COND))
    assert [x.shape for x in outs[1:]] == [(0, n, d) for n, d in zip(LENGTHS[1:], DIMS[1:], strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_streams_of_a_modality_without_a_valid_token_train_in_every_precision(dtype):
    net = drawn(MMDiT(depth=1, **SIZES, num_residual_streams=2, varlen=True)).to(dtype)
    masks = [torch.zeros(2, LENGTHS[0], dtype=torch.bool), None, None]
    outs = net(modality_tokens=[x.to(dtype) for x in tokens(2)], modality_masks=masks)
    sum(x.float().square().sum() for x in outs).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.slow
def test_a_packing_made_before_compiles_in_one_graph():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    net, counter = drawn(MMDiT(**SINGLE, depth=1, single_stream_depth=1, dim_cond=COND)), CompileCounter()
    given = dict(
        modality_tokens=[randn(3, 5, 8), randn(3, 7, 8)],
        modality_masks=Packing.from_masks((MASKS[0], MASKS[2]), (5, 7), 3),
        modality_positions=[None, randn(7, 2)],
        time_cond=randn(3, COND),
    )
    for a, b in zip(torch.compile(net, backend=counter)(**given), net(**given), strict=True):
        torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


def test_what_a_packing_keeps_of_an_evaluation_serves_training():
    packing = Packing(((2, 1), (1, 4)))
    with torch.inference_mode():
        segments = packing.segments((1,), torch.device("cpu"))
    assert packing.segments((1,), torch.device("cpu")) is segments and not segments.query_offsets.is_inference()


def test_a_mask_on_the_host_is_read_under_fake_tensors_too():
    with FakeTensorMode():
        packing = Packing.from_masks(MASKS, LENGTHS, 3)
    assert packing.lengths == Packing.from_masks(MASKS, LENGTHS, 3).lengths


def test_lengths_and_masks_make_the_same_packing():
    masks = [padded_mask(5, 2, 5, 0), None]
    by_masks = Packing.from_masks(masks, (5, 7), 3)
    by_lengths = Packing.from_lengths([(2, 5, 0), None], (5, 7), 3, torch.device("cpu"))
    assert by_masks.lengths == by_lengths.lengths and by_lengths.index[1] is None
    assert torch.equal(by_masks.index[0], by_lengths.index[0])


@pytest.mark.slow
def test_a_compiled_network_runs_packed():
    net = drawn(MMDiT(depth=1, **SIZES, dim_cond=COND, varlen=True)).float()
    xs, cond = [x.float() for x in tokens(3)], randn(3, COND).float()
    wanted = net(modality_tokens=xs, modality_masks=MASKS, time_cond=cond)
    got = torch.compile(net, backend="eager")(modality_tokens=xs, modality_masks=MASKS, time_cond=cond)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Packing.from_masks([torch.ones(2, 12).bool(), None], [16, 8], 2),
            r"mask 0 must be of dtype torch.bool and shape \(2, 16\) \(batch, length\), got torch.bool \(2, 12\)",
        ),
        (
            lambda: Packing.from_masks([torch.ones(2, 16)], [16], 2),
            "mask 0 must be of dtype torch.bool .* got torch.float32",
        ),
        (lambda: Packing.from_masks([None], [16, 8], 2), "one mask .* for each of 2 lengths, got 1"),
        (
            lambda: Packing.from_masks(MASKS, LENGTHS, 3).map(lambda x: x.to("meta")).check(tokens(3)),
            "the packing is on meta, but the tokens are on cpu; make it there",
        ),
        (
            lambda: drawn(MMDiT(depth=1, **SIZES)).blocks[0](
                modality_tokens=tokens(3), packing=Packing.from_masks(MASKS, LENGTHS, 3)
            ),
            r"modality 0 tokens must be packed, \(1, 5, ...\), got \(3, 5, 10\)",
        ),
        (
            lambda: two_modality().forward(
                text_tokens=randn(1, 2, 8), image_tokens=randn(1, 2, 8), text_mask=torch.ones(1, 2).bool(),
                masks=Packing.from_masks([None, None], [2, 2], 1),
            ),
            "masks is a Packing in place of text_mask and image_mask; pass either",
        ),
    ],
)  # fmt: skip
def test_a_packing_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def two_modality():
    return mmdit.MMDiT(depth=1, dim_text=8, dim_image=8, heads=2, dim_head=4).double()


def test_on_the_meta_device_masks_have_no_values_and_a_network_runs_padded():
    with torch.device("meta"):
        net = MMDiT(depth=1, **SIZES, varlen=True)
        xs, masks = tokens(2), tuple(None if m is None else m[:2].to("meta") for m in MASKS)
        outs = net(modality_tokens=[x.to("meta").float() for x in xs], modality_masks=masks)
        assert [x.shape for x in outs] == [x.shape for x in xs]
        with pytest.raises(ValueError, match=r"mask \d is on the meta device, where it has no values; pass Packing"):
            Packing.from_masks(masks, [x.shape[1] for x in xs], 2)
