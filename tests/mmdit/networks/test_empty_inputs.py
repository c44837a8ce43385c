"""No tokens, no valid tokens, no samples: right shapes, no nan, and what the rest gives without them."""

from __future__ import annotations

import re

import pytest
import torch

import mmdit
from benchmarks.numerics.variants import COND, DIM, VARIANTS, build
from mmdit.adaptive_attention import AdaptiveAttention
from mmdit.layers.residuals import HyperConnection
from tests.support.draws import drawn, padded_mask, randn
from tests.support.marks import slow_but

LENGTHS = (3, 4, 2)
variants = pytest.mark.parametrize("variant", slow_but(VARIANTS, *list(VARIANTS)[::4]))


def tokens(variant, batch=2, lengths=LENGTHS):
    return [randn(batch, n, DIM) for n in lengths[: 2 if "two" in VARIANTS[variant] else 3]]


def run(net, variant, xs, masks=None, cond=None):
    """Outputs of any variant; positions and conditioning are those of the token's index and the sample's."""
    options, batch, given = VARIANTS[variant], len(xs[0]), {}
    if options.get("dim_cond", COND) is not None:
        every = torch.linspace(-1, 1, 2 * COND, dtype=torch.float64).view(2, COND)
        given["time_cond"] = every[:batch] if cond is None else cond
    if "two" in options:
        text_mask, image_mask = masks or (None, None)
        return net(text_tokens=xs[0], image_tokens=xs[1], text_mask=text_mask, image_mask=image_mask, **given)
    if "rotary_axes" in options:
        given["modality_positions"] = [torch.arange(x.shape[1])[:, None] * torch.tensor([1, 2, 3]) for x in xs]
    return net(modality_tokens=xs, modality_masks=masks, **given)


def loss(outs):
    return sum(out.square().sum() for out in outs if out is not None)


def gradients(net, value):
    net.zero_grad()
    value.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}


def close(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


# ------------------------------------------------------------------------------------------------------ nothing there


@variants
def test_a_modality_without_tokens_is_one_masked_whole(variant):
    net, xs = build(variant, 2), tokens(variant)
    masks = [torch.zeros(2, LENGTHS[0], dtype=torch.bool)] + [None] * (len(xs) - 1)
    masked = run(net, variant, xs, masks)
    wanted = gradients(net, loss(masked[1:]))
    first, *rest = run(net, variant, [xs[0][:, :0], *xs[1:]])
    close(rest, masked[1:])
    assert first is None or first.shape == (2, 0, DIM)
    close(gradients(net, loss(rest)).values(), wanted.values())


WITHOUT = [v for v in VARIANTS if not {"two", "num_register_tokens", "dual_blocks"} & VARIANTS[v].keys()]


@pytest.mark.parametrize("variant", slow_but(WITHOUT, *WITHOUT[::4]))
def test_a_modality_without_tokens_is_as_if_the_network_had_none(variant):
    of_last = re.compile(r"(s|to_qkv|to_out)\.2\.")  # modulations.2., to_qkv.2., ...
    net, smaller, xs = build(variant, 2), build(variant, 2, modalities=2), tokens(variant, lengths=(3, 4, 0))
    kept = {name: x for name, x in net.state_dict().items() if not of_last.search(name)}
    smaller.load_state_dict(kept)
    *outs, none = run(net, variant, xs)
    alone = run(smaller, variant, xs[:2])
    close(outs, alone)
    assert none.shape == (2, 0, DIM)
    every, wanted = gradients(net, loss(outs)), gradients(smaller, loss(alone))
    close([every[name] for name in wanted], wanted.values())
    assert not any(gradient.any() for name, gradient in every.items() if of_last.search(name))


@variants
def test_a_sample_masked_whole_changes_no_other(variant):
    net, xs = build(variant, 2), tokens(variant)
    masks = [padded_mask(x.shape[1], 0, x.shape[1]) for x in xs]
    outs = run(net, variant, xs, masks)
    cond = torch.linspace(-1, 1, 2 * COND, dtype=torch.float64).view(2, COND)[1:]
    alone = run(net, variant, [x[1:] for x in xs], cond=cond)
    close([out if out is None else out[1:] for out in outs], alone)
    assert all(out.isfinite().all() for out in outs if out is not None)
    assert all(g.isfinite().all() for g in gradients(net, loss(outs)).values())


@pytest.mark.parametrize("masked", slow_but([False, True], True), ids=["unmasked", "masked"])
@pytest.mark.parametrize("batch", [0, 2])
@variants
def test_no_samples_or_no_tokens_give_none_and_gradients_of_zero(variant, batch, masked):
    net, xs = build(variant, 2), tokens(variant, batch, LENGTHS if not batch else (0, 0, 0))
    xs = [x.requires_grad_() for x in xs]
    outs = run(net, variant, xs, [torch.ones(x.shape[:2], dtype=torch.bool) for x in xs] if masked else None)
    assert all(out is None or out.shape == x.shape for out, x in zip(outs, xs, strict=True))
    assert not any(gradient.any() for gradient in gradients(net, loss(outs)).values())
    assert all(x.grad is None or x.grad.shape == x.shape for x in xs)


ATTENTIONS = [
    {},
    dict(num_adaptive_weights=2),
    dict(num_adaptive_weights=2, gating="sample", dim_cond=9, bias=True),
    dict(softclamp=True, qk_rmsnorm=True),
    dict(flash_attn=False, qk_layernorm=True),
]


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("options", ATTENTIONS, ids=str)
def test_attention_over_nothing_gives_nothing(options, shape, masked):
    net = AdaptiveAttention(dim=16, heads=2, dim_head=8, **options)
    x, mask = torch.randn(*shape, 16, requires_grad=True), torch.ones(shape, dtype=torch.bool) if masked else None
    out = net(x, mask, torch.randn(shape[0], 9) if "gating" in options else None)
    out.sum().backward()
    assert out.shape == x.shape == x.grad.shape
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("manifold", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=str)
def test_streams_of_no_tokens_have_gradients_of_zero(shape, manifold):
    net = HyperConnection(8, streams=3, manifold=manifold)
    x, out = torch.randn(*shape, 3, 8, requires_grad=True), torch.randn(*shape, 8, requires_grad=True)
    branch, state = net.width(x)
    (net.depth(state, out).sum() + branch.sum()).backward()
    assert branch.shape == out.shape == out.grad.shape and x.grad.shape == x.shape
    assert all(not p.grad.any() for p in net.parameters())


def whole_network(varlen=False, **options):
    image = {"kind": "patches", "channels": 3, "patch": 2, "max_size": 8}
    text = {"dim": 16, "input": {"kind": "linear", "dim": 8}, "output": {"kind": "linear", "dim": 8}}
    image = {"dim": 16, "input": image, "output": {"kind": "patches", "channels": 3}}
    if "rotary" in options:
        text["rotary"], image["rotary"] = {"axes": [0], "after": "image"}, {"axes": [0, 1]}
    config = dict(depth=1, modalities={"text": text, "image": image}, timestep={"frequencies": 16}, dim_cond=12)
    return drawn(mmdit.build(config | dict(heads=2, dim_head=8, varlen=varlen) | options))


@pytest.mark.parametrize("varlen", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(
    "options",
    [{}, dict(rotary={"axes": [4, 4]}, single_stream={"depth": 1}), dict(register_tokens=2)],
    ids=["plain", "rotary, single stream", "registers"],
)
def test_a_whole_network_takes_no_samples_and_samples_without_text(options, varlen):
    net, image, text, time = whole_network(varlen, **options), randn(2, 3, 4, 4), randn(2, 3, 8), torch.rand(2)
    masked = net({"text": text, "image": image}, time, masks={"text": padded_mask(3, 0, 3)})
    listed = net({"text": [text[0, :0], text[1]], "image": [*image]}, time)
    none = net({"text": text[:, :0], "image": image}, time)
    close(listed["image"], masked["image"])
    close([none["image"][0], listed["text"][1]], [masked["image"][0], masked["text"][1]])
    assert listed["text"][0].shape == (0, 8) and none["text"].shape == (2, 0, 8)
    assert all(g.isfinite().all() for g in gradients(net, loss(listed["image"])).values())
    outs = net({"text": text[:0], "image": image[:0]}, time[:0])
    assert outs["text"].shape == (0, 3, 8) and outs["image"].shape == (0, 3, 4, 4)
    assert not any(gradient.any() for gradient in gradients(net, loss(outs.values())).values())


def test_an_image_without_a_row_and_a_list_without_a_sample_are_refused():
    net = whole_network()
    with pytest.raises(ValueError, match=r"image must have a height and width .* got \(2, 3, 0, 4\)"):
        net({"text": randn(2, 3, 8), "image": randn(2, 3, 0, 4)}, torch.rand(2))
    with pytest.raises(ValueError, match="text is an empty list; it must hold one tensor for each sample"):
        net({"text": [], "image": []}, torch.rand(0))
