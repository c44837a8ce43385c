"""What stands at masked places changes nothing: no valid output and no gradient, whether it is nan, inf or a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import mmdit
from benchmarks.families.comparison import random_call
from benchmarks.families.diffusers_networks import BY_NAME, FAMILIES
from benchmarks.numerics.variants import COND, DIM, VARIANTS, build
from mmdit import JointAttention
from mmdit.adaptive_attention import AdaptiveAttention
from mmdit.networks.block import MMDiTBlock
from mmdit.networks.parallel_block import ParallelBlock
from mmdit.networks.transformer import MMDiT
from mmdit.packing import Packing
from tests.support.draws import drawn, padded_mask, randn
from tests.support.marks import slow_but

# one of each kind of attention, projection, residual and stream
QUICK = ("standard", "adaptive by token", "adaptive by sample", "explicit attention", "registers", "hyper-connections")
QUICK += ("dual attention, discard", "parallel single stream", "rotary", "two modalities", "all together")
PUBLISHED = ("qwen-image-edit-2511",)
FILLS = (7.0, float("nan"), float("inf"), -1e30)
LENGTHS = (4, 5, 3)
# the ends of some samples, gaps, and a sample of which nothing is valid
MASKS = (
    torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool(),
    torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool(),
    padded_mask(3, 1, 2, 0),
)


def filled(x: Tensor, mask: Tensor, fill: float) -> Tensor:
    """A leaf like `x`, in which `fill` stands at the masked places."""
    x = x.clone()
    x[~mask.expand(x.shape[: mask.ndim])] = fill
    return x.requires_grad_(x.is_floating_point())


def check(net: nn.Module, run: Callable[[float], tuple[list[Tensor], list[Tensor]]]) -> None:
    """`run` gives the outputs at valid places and the inputs, with a number where nothing is valid."""
    seen = []
    for fill in FILLS:
        net.zero_grad()
        valid, inputs = run(fill)
        sum(x.square().sum() for x in valid).backward()
        gradients = [x.grad for x in (*net.parameters(), *inputs) if x.grad is not None]
        seen.append([*valid, *gradients])
        assert all(x.isfinite().all() for x in seen[-1]) and any(x.any() for x in gradients)
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def valid_of(outs: Any, masks: Any) -> list[Tensor]:
    """What stands at valid places; what stands elsewhere is finite."""
    assert all(x.isfinite().all() for x in outs if x is not None)
    return [x if mask is None else x[mask] for x, mask in zip(outs, masks, strict=True) if x is not None]


@pytest.mark.parametrize("varlen", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("variant", slow_but(VARIANTS, *QUICK))
def test_in_a_stack(variant: str, varlen: bool) -> None:
    options, net = VARIANTS[variant], build(variant, 2)
    net.varlen = varlen
    masks = MASKS[: 2 if "two" in options else 3]
    xs = [randn(3, n, DIM) for n in LENGTHS[: len(masks)]]
    given: dict[str, Any] = {} if options.get("dim_cond", COND) is None else dict(time_cond=randn(3, COND))
    places = [randn(3, LENGTHS[0], 3), None, randn(LENGTHS[2], 3)]

    def run(fill: float) -> tuple[list[Tensor], list[Tensor]]:
        own = [filled(x, mask, fill) for x, mask in zip(xs, masks, strict=True)]
        if "rotary_axes" in options:
            shared = filled(places[2], MASKS[2].any(dim=0), fill).detach()  # valid in no sample
            given["modality_positions"] = [filled(places[0], MASKS[0], fill).detach(), None, shared]
        if "two" in options:
            outs = net(text_tokens=own[0], image_tokens=own[1], text_mask=masks[0], image_mask=masks[1], **given)
        else:
            outs = net(modality_tokens=own, modality_masks=masks, **given)
        return valid_of(outs, masks), own

    check(net, run)


def alone(net: nn.Module, call: Callable[..., Any], shape: tuple[int, ...] = (DIM,), count: int = 2) -> None:
    """A part of a stack used by itself: its tokens are `b n *shape`."""
    xs, masks = [randn(3, n, *shape) for n in LENGTHS[:count]], MASKS[:count]

    def run(fill: float) -> tuple[list[Tensor], list[Tensor]]:
        own = [filled(x, mask, fill) for x, mask in zip(xs, masks, strict=True)]
        return valid_of(call(own, masks), masks), own

    check(net, run)


SIZES: dict[str, Any] = dict(heads=2, dim_head=8)
EITHER = pytest.mark.parametrize("flash", [True, False], ids=["fused", "explicit"])


@EITHER
@pytest.mark.parametrize("weights", [1, 2])
def test_in_attention_by_itself(weights: int, flash: bool) -> None:
    options = SIZES | dict(num_adaptive_weights=weights, flash_attn=flash, bias=True)
    joint = drawn(JointAttention(dim_inputs=(DIM, DIM), **options))
    alone(joint, lambda xs, masks: joint(xs, masks))
    adaptive = drawn(AdaptiveAttention(dim=DIM, **options))
    alone(adaptive, lambda xs, masks: [adaptive(xs[0], masks[0])], count=1)


@pytest.mark.parametrize("streams", [1, 2])
def test_in_a_block_by_itself(streams: int) -> None:
    shape = (DIM,) if streams == 1 else (streams, DIM)
    options, cond = SIZES | dict(dim_cond=COND, num_residual_streams=streams), randn(3, COND)
    block = drawn(MMDiTBlock(dim_modalities=(DIM, DIM), dual=(1,), **options))
    alone(block, lambda xs, masks: block(modality_tokens=xs, modality_masks=masks, time_cond=cond), shape)
    single = drawn(ParallelBlock(dim=DIM, **options))
    alone(single, lambda xs, masks: single(modality_tokens=xs, modality_masks=masks, time_cond=cond), shape, 1)


def every_input() -> Any:
    """Token ids, patches, a sequence with a norm, tokens as they are."""
    image = {"kind": "patches", "channels": 3, "patch": 2, "max_size": 8}
    modalities = {
        "ids": {"dim": 16, "input": {"kind": "tokens", "vocabulary": 9, "max_length": 6}},
        "image": {"dim": 16, "input": image, "output": {"kind": "patches", "channels": 3}},
        "sound": {"dim": 16, "input": {"kind": "linear", "dim": 4, "norm": "rms", "positions": "sincos"}},
        "bare": {"dim": 16},
    }
    return mmdit.build(dict(depth=1, modalities=modalities, heads=2, dim_head=8, timestep={}, dim_cond=8))


def as_given(masks: dict[str, Tensor], how: str, lengths: dict[str, int]) -> Any:
    if how != "packing":
        return masks
    return Packing.from_masks([masks.get(name) for name in lengths], [*lengths.values()], 3)


HOW = pytest.mark.parametrize("how", ["padded", "packed", "packing"])


@HOW
@pytest.mark.parametrize("family", slow_but(FAMILIES, *(BY_NAME[name] for name in PUBLISHED)), ids=str)
def test_in_a_published_network(family: Any, how: str) -> None:
    net = drawn(mmdit.build(family.small_config()))
    net.transformer.varlen = how == "packed"
    call = random_call(family, batch=3, height=4, width=4, length=4, references=())
    call = tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, call)
    call.pop("references", None)
    given, seen = call.pop("inputs"), net.inputs[family.drawn]
    masks = {name: MASKS[0] if x.shape[1] == 4 else MASKS[2] for name, x in given.items() if name != family.drawn}
    patches = given[family.drawn][0, 0].numel() // math.prod(seen.sizes)
    joined = {"text": torch.cat([masks[name] for name in net.streams["text"]], dim=1)}
    call["masks"] = as_given(joined, how, {"text": joined["text"].shape[1], family.drawn: patches})
    if how != "packing":
        call["masks"] = masks

    def run(fill: float) -> tuple[list[Tensor], list[Tensor]]:
        inputs = {name: filled(given[name], mask, fill) for name, mask in masks.items()}
        return [net(given | inputs, **call)[family.drawn]], [*inputs.values()]

    check(net, run)


@HOW
def test_in_inputs_of_every_kind(how: str) -> None:
    net = drawn(every_input())
    net.transformer.varlen = how == "packed"
    ids, image, sound, bare = torch.randint(9, (3, 4)), randn(3, 3, 4, 2), randn(3, 5, 4), randn(3, 3, 16)
    masks = {"ids": MASKS[0], "image": padded_mask(2, 1, 2, 0), "sound": MASKS[1], "bare": MASKS[2]}
    pixels = masks["image"].view(3, 1, 2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3).expand_as(image)
    lengths = {"ids": 4, "image": 2, "sound": 5, "bare": 3}

    def run(fill: float) -> tuple[list[Tensor], list[Tensor]]:
        inputs = {
            "ids": filled(ids, MASKS[0], 8 if fill == 7.0 else -100),
            "image": filled(image, pixels, fill),
            "sound": filled(sound, MASKS[1], fill),
            "bare": filled(bare, MASKS[2], fill),
        }
        out = net(inputs, torch.tensor([0.2, 0.5, 0.9]), masks=as_given(masks, how, lengths))
        assert all(x.isfinite().all() for x in out.values())
        valid = [out["image"][pixels], *(out[name][masks[name]] for name in ("ids", "sound", "bare"))]
        return valid, [inputs[name] for name in ("image", "sound", "bare")]

    check(net, run)


@pytest.mark.parametrize("options", [{}, dict(num_residual_streams=2, dynamic_residual=True)], ids=["plain", "streams"])
def test_it_divides_nothing_by_nothing_where_norms_add_nothing(options: dict[str, Any]) -> None:
    net = drawn(MMDiT(depth=2, dim_modalities=(6, 8), norm_eps=0.0, qk_rmsnorm=True, **SIZES, **options))
    for attention in (module for module in net.modules() if hasattr(module, "eps")):
        attention.eps = 0.0
    outs = net(modality_tokens=[torch.zeros(3, 4, 6).double(), randn(3, 5, 8)], modality_masks=[MASKS[0] & False, None])
    assert all(x.isfinite().all() for x in outs)


def test_a_list_of_equal_sizes_may_be_masked_too() -> None:
    net, x = (
        drawn(every_input()),
        {"ids": torch.randint(9, (3, 4)), "image": randn(3, 3, 4, 2), "bare": randn(3, 3, 16)},
    )
    for fill in FILLS[1:]:
        sound, t = filled(torch.ones(3, 5, 4).double(), MASKS[1], fill), torch.rand(3)
        got = net(x | {"sound": [*sound]}, t, masks={"sound": MASKS[1]})
        wanted = net(x | {"sound": sound}, t, masks={"sound": MASKS[1]})
        torch.testing.assert_close(got["image"], wanted["image"])


def test_masks_of_another_size_or_place_are_named() -> None:
    net = every_input()
    x = {"ids": torch.randint(9, (2, 4)), "image": torch.ones(2, 3, 4, 2), "sound": torch.ones(2, 5, 4)}
    for name, mask, message in (
        ("image", padded_mask(3, 1, 2), r"image mask must have the shape \(2, 2\) \(batch, length\), got \(2, 3\)"),
        ("ids", torch.ones(2, 4), "ids mask must be of dtype torch.bool"),
        ("sound", padded_mask(5, 1, 2).to("meta"), "sound mask is on meta, but the tokens are on cpu; move it there"),
    ):
        with pytest.raises(ValueError, match=message):
            net(x | {"bare": torch.ones(2, 3, 16)}, torch.rand(2), masks={name: mask})


def test_without_masks_nothing_is_copied() -> None:
    net, x = JointAttention(dim_inputs=(DIM,), **SIZES), torch.randn(2, 3, DIM)
    seen: list[Tensor] = []
    net.to_qkv[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    net([x])
    assert seen[0] is x
