from __future__ import annotations

import pytest
import torch

from mmdit import mmdit_pytorch as two
from mmdit.networks import transformer as generalized
from tests.support.draws import drawn, padded_mask, randn
from tests.support.small_networks import COND, VARIANTS

SIZES = dict(dim_text=10, dim_image=6, heads=2, dim_head=4)


def residual_of_the_face(options):
    """With several streams the face takes hyper-connections, the general network their manifold form."""
    if options.get("num_residual_streams", 1) == 1:
        return options
    return dict(residual="hyper_connections") | options


def given(**more):
    return dict(text_tokens=randn(2, 5, 10), image_tokens=randn(2, 4, 6), time_cond=randn(2, COND)) | more


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_two_modality_face_is_the_general_block(variant):
    sizes = dict(heads=2, dim_head=4, dim_cond=COND, **VARIANTS[variant])
    face = drawn(two.MMDiT(depth=2, dim_text=10, dim_image=6, num_register_tokens=2, **sizes))
    general = generalized.MMDiT(
        depth=2,
        dim_modalities=(10, 6),
        num_register_tokens=(0, 2),
        final_norms=(False, True),
        skip_last_feedforward=(0,),
        **residual_of_the_face(sizes),
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_block_of_the_face_is_a_general_block(variant):
    sizes = dict(heads=2, dim_head=4, dim_cond=COND, **VARIANTS[variant])
    face = drawn(two.MMDiTBlock(dim_text=10, dim_image=6, **sizes))
    general = generalized.MMDiTBlock(dim_modalities=(10, 6), **residual_of_the_face(sizes)).double()
    general.load_state_dict(face.state_dict())
    streams = () if "num_residual_streams" not in sizes else (sizes["num_residual_streams"],)
    text, image, cond = randn(2, 5, *streams, 10), randn(2, 4, *streams, 6), randn(2, COND)
    masks = padded_mask(5, 2, 4), padded_mask(4, 4, 1)
    ours = face(text_tokens=text, image_tokens=image, text_mask=masks[0], image_mask=masks[1], time_cond=cond)
    theirs = general(modality_tokens=(text, image), modality_masks=masks, time_cond=cond)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_last_text_feedforward_is_built_where_it_is_asked_for():
    net = drawn(two.MMDiT(depth=2, **SIZES, dim_cond=COND, should_skip_last_feedforward=False))
    lean = two.MMDiT(depth=2, **SIZES, dim_cond=COND).double()
    assert not any(name.startswith("blocks.1.feedforwards.0.") for name in lean.state_dict())
    call = given()
    full, skipped = net(**call), net(**call, should_skip_last_feedforward=True)
    assert not torch.equal(full[0], skipped[0])
    assert torch.equal(full[1], skipped[1])
    with pytest.raises(ValueError, match="build with should_skip_last_feedforward=False"):
        lean(**call, should_skip_last_feedforward=False)


def test_registers_and_the_final_norm_are_the_images_alone():
    net = two.MMDiT(depth=1, **SIZES, num_register_tokens=3)
    assert [name for name in net.state_dict() if name.startswith(("registers", "final_norms"))] == [
        "registers.1.tokens",
        "final_norms.1.weight",
    ]
    assert "final_norms.1.weight" not in two.MMDiT(depth=1, **SIZES, final_norm=False).state_dict()


@pytest.mark.parametrize("make", [two.MMDiTBlock, lambda **options: two.MMDiT(depth=1, **options)])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(text_tokens=torch.zeros(2, 5, 6)), r"text tokens must have .*10\), got \(2, 5, 6\)"),
        (dict(image_tokens=torch.zeros(2, 6)), r"image tokens must have .*6\), got \(2, 6\)"),
        (dict(image_tokens=torch.zeros(1, 4, 6)), "image tokens have a batch of 1, but text tokens have one of 2"),
        (dict(text_mask=torch.ones(2, 4).bool()), r"text mask must have the shape \(2, 5\) .*got \(2, 4\)"),
        (dict(image_mask=torch.ones(2, 4)), "image mask must be of dtype torch.bool .*got torch.float32"),
        (dict(time_cond=None), r"time_cond is missing"),
        (dict(time_cond=torch.zeros(2, 8)), r"time_cond for text must have the shape \(2, 9\) .*got \(2, 8\)"),
    ],
)
def test_wrong_calls_name_text_or_image(make, change, message):
    with pytest.raises(ValueError, match=message):
        make(**SIZES, dim_cond=COND).double()(**given(**change))


def test_the_two_modality_face_takes_places_for_rotary_positions():
    sizes = dict(depth=2, heads=2, dim_head=4, dim_cond=COND, rotary_axes=(2, 2))
    face = drawn(two.MMDiT(dim_text=10, dim_image=6, **sizes))
    general = generalized.MMDiT(dim_modalities=(10, 6), final_norms=(False, True), skip_last_feedforward=(0,), **sizes)
    general.double().load_state_dict(face.state_dict())
    call, places = given(), randn(4, 2)
    ours = face(**call, image_positions=places)
    theirs = general(
        modality_tokens=(call["text_tokens"], call["image_tokens"]),
        time_cond=call["time_cond"],
        modality_positions=(None, places),
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert (ours[1] - face(**call, image_positions=2 * places)[1]).abs().max() > 1e-4


@pytest.mark.parametrize("skip", [None, True, False])
def test_without_joint_blocks_there_is_no_last_feedforward_to_skip(skip):
    sizes = dict(dim_text=16, dim_image=16, heads=2, dim_head=8, single_stream_depth=1)
    net = two.MMDiT(depth=0, should_skip_last_feedforward=False, **sizes)
    tokens = dict(text_tokens=torch.randn(1, 3, 16), image_tokens=torch.randn(1, 4, 16))
    text, image = net(**tokens, should_skip_last_feedforward=skip)
    assert text.shape == (1, 3, 16) and image.shape == (1, 4, 16)
