"""Video, refined modalities, and several inputs in one stream."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import mmdit
from mmdit.layers.modulation import Modulation, NoModulation
from mmdit.networks.block import MMDiTBlock
from mmdit.networks.places import RotaryPlaces
from mmdit.networks.refiner import mean_of
from mmdit.options import BlockOptions, ModulationOptions, OptionError
from mmdit.packing import Packing
from mmdit.sampling import network_velocity, sample
from tests.support.draws import drawn, randn

MODEL = {
    "depth": 2,
    "modalities": {
        "text": {
            "dim": 16,
            "input": {"kind": "linear", "dim": 6},
            "refiner": {
                "depth": 2,
                "conditioning": "own",
                "modulation": {"parts": "gate"},
                "feedforward": {"kind": "silu"},
            },
            "inputs": {
                "glyphs": {"kind": "mlp", "dim": 5, "hidden": [7, 9], "norm": "layer", "norm_out": "layer"},
                "sight": {"kind": "linear", "dim": 3},
            },
            "type_embedding": True,
        },
        "video": {
            "dim": 16,
            "input": {"kind": "patches", "channels": 2, "patch": [2, 1, 2], "positions": "none"},
            "output": {"kind": "patches", "channels": 3},
            "rotary": {"axes": [0, 1, 2]},
        },
    },
    "timestep": {"frequencies": 8},
    "dim_cond": 16,
    "heads": 2,
    "dim_head": 8,
    "rotary": {"axes": [4, 2, 2]},
}


def changed(modality: str | None = None, model: dict | None = None, **values):
    new = copy.deepcopy(MODEL) | (model or {})
    if modality:
        new["modalities"][modality] |= values
    return {"model": new}


def made(*args, **values):
    return drawn(mmdit.build(changed(*args, **values))).eval()


def inputs(batch=2, length=4):
    return {
        "text": randn(batch, length, 6),
        "video": randn(batch, 2, 4, 3, 6),
        "glyphs": randn(batch, 3, 5),
        "sight": randn(batch, 2, 3),
    }


def test_a_video_is_cut_into_boxes_frame_by_frame_and_put_together_again():
    net, x = made(), randn(2, 2, 4, 3, 6)
    linear = net.inputs["video"].linear
    kernel = linear.weight.view(16, 2, 2, 1, 2)  # channels, frames, rows and columns of a patch
    wanted = F.conv3d(x, kernel, linear.bias, stride=(2, 1, 2)).flatten(2).transpose(1, 2)
    assert torch.allclose(net.inputs["video"](x, "video"), wanted, atol=1e-5)
    # a head that gives each token's features unchanged, with the values of patch (o, p, q) of channel c at o p q c
    head = net.outputs["video"]
    tokens = torch.arange(2 * 3 * 3).float().view(1, 18, 1).expand(1, 18, 16)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.arange(12))
        out = head(tokens, randn(1, 16), x)
    assert out.shape == (1, 3, 4, 3, 6)
    assert out[0, :, 1, 0, 0].tolist() == [6, 7, 8]  # the second frame of a patch, its first column
    assert out[0, :, 2, 2, 5].tolist() == [3, 4, 5]  # the first frame of another, its second column


def test_a_video_has_its_frames_rows_and_columns_on_three_axes():
    text, video = RotaryPlaces(made().config)(inputs())
    assert text is None
    assert video.tolist() == [[f, r, c] for f in range(2) for r in range(3) for c in range(3)]


def test_tokens_that_are_masked_in_any_input_change_nothing_padded_or_packed():
    net, given, t = made(), inputs(), torch.rand(2) * 1000
    masks = {
        "text": torch.tensor([[True, True, False, True], [True, False, False, False]]),
        "glyphs": torch.tensor([[True, False, True], [False, False, False]]),
        "sight": torch.tensor([[False, False], [True, True]]),
    }
    spoiled = {
        name: x.masked_fill(~masks[name].unsqueeze(-1), 1e4) if name in masks else x for name, x in given.items()
    }
    packing = Packing.from_masks([torch.cat(list(masks.values()), 1), None], [9, 18], 2)
    with torch.no_grad():
        wanted = net(given, t, masks=masks)
        assert (wanted["video"] - net(given, t)["video"]).abs().max() > 0.01
        assert wanted["text"].shape == (2, 4, 16)  # further inputs are not returned
        steps = net.precompute_modulation(torch.tensor([3.0, 700.0]))
        ways = [
            net(spoiled, t, masks=masks)["video"],
            net(given, t, masks=packing)["video"],
            net(given, {"text": t, "video": t}, masks=masks)["video"],
        ]
        known = net(given, masks=masks, modulation=steps[1])["video"]
        anew = net(given, torch.full((2,), 700.0), masks=masks)["video"]
        # sample by sample without padding: lists of tensors of their own lengths
        listed = {n: [x[m] for x, m in zip(given[n], masks[n], strict=True)] for n in masks} | {
            "video": list(given["video"])
        }
        lists = torch.stack(net(listed, t)["video"])
        net.transformer.varlen = True
        ways += [net(given, t, masks=masks)["video"], torch.stack(net(listed, t)["video"]), lists]
    for got in ways:
        assert torch.allclose(got, wanted["video"], atol=1e-5)
    assert torch.allclose(known, anew, atol=1e-5)


def test_each_input_of_a_stream_has_a_type_and_an_embedding_of_its_own():
    net, given = made(), inputs(1)
    seen = {}
    net.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(text=kwargs["modality_tokens"][0]), with_kwargs=True
    )
    with torch.no_grad():
        net(given, torch.rand(1))
        types, glyphs = net.type_embeds["text"].weight, net.inputs["glyphs"]
        x = F.layer_norm(given["glyphs"], (5,), glyphs.norm.weight, glyphs.norm.bias, 1e-5)
        for i, linear in enumerate(glyphs.linears):
            x = F.linear(F.gelu(x) if i else x, linear.weight, linear.bias)
        x = F.layer_norm(x, (16,), glyphs.norm_out.weight, glyphs.norm_out.bias, 1e-5)
        assert torch.allclose(seen["text"][:, 4:7], x + types[1], atol=1e-5)
        assert torch.allclose(seen["text"][:, 7:], net.inputs["sight"](given["sight"], "") + types[2], atol=1e-5)


@pytest.mark.parametrize(("conditioning", "moved"), [("none", False), ("network", True), ("own", True)])
def test_a_refiner_depends_on_the_timestep_where_it_is_conditioned(conditioning, moved):
    refiner = {"depth": 1, "conditioning": conditioning}
    net, given = made("text", refiner=refiner), inputs()
    outs = []
    net.refiners["text"].register_forward_hook(lambda module, args, out: outs.append(out))
    with torch.no_grad():
        net(given, torch.tensor([3.0, 5.0]))
        net(given, torch.tensor([900.0, 500.0]))
    assert (not torch.equal(*outs)) == moved
    assert (net.refiners["text"].mean_embed is not None) == (conditioning == "own")


def test_a_frame_that_is_given_has_its_own_timestep_and_refined_text_one_a_sample():
    net, given, t = made(), inputs(), torch.tensor([300.0, 700.0])
    of_tokens = t[:, None].repeat(1, 18)
    with torch.no_grad():
        wanted = net(given, t)["video"]
        assert torch.allclose(net(given, {"text": t, "video": of_tokens})["video"], wanted, atol=1e-5)
        of_tokens[:, :9] = 0  # the first of two frames of patches
        assert (net(given, {"text": t, "video": of_tokens})["video"] - wanted).abs().amax((1, 3, 4)).min() > 1e-3
        with pytest.raises(ValueError, match=r"timestep of text must have the shape \(batch,\) = \(2,\), got \(2, 9\)"):
            net(given, {"text": t[:, None].repeat(1, 9), "video": t})
        # one for each token of the text, of its further inputs too, where the refiner takes the network's conditioning
        net = made("text", refiner={"depth": 1})
        got = net(given, {"text": t[:, None].repeat(1, 9), "video": t})["video"]
        assert torch.allclose(got, net(given, t)["video"], atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 5])  # of two
def test_clean_frames_are_conditioned_as_at_timestep_0_without_guidance(frames):
    model = {"guidance": {"frequencies": 8}, "single_stream": {"depth": 1}}
    net = made("video", model, clean_frames=frames, output=None)
    plain = made("video", {"single_stream": {"depth": 1}}, output=None)
    plain.load_state_dict({name: x for name, x in net.state_dict().items() if "guidance" not in name})
    given, t = inputs(), torch.rand(2) * 1000
    with torch.no_grad():
        guided = net.guidance_embed.linear_out
        guided.weight.zero_(), guided.bias.copy_(randn(16))
        wanted = net.guidance_embed(t)  # one vector whatever the scale
        conds = [plain.time_embed(x, torch.float64) for x in (t, torch.zeros(2))]
        count = 9 * min(frames, 2)
        each = torch.cat(
            [conds[1][:, None].expand(-1, count, -1), (conds[0] + wanted)[:, None].expand(-1, 18 - count, -1)], 1
        )
        plain.transformer.register_forward_pre_hook(
            lambda m, args, kwargs: (args, kwargs | {"time_cond": [conds[0] + wanted, each]}), with_kwargs=True
        )
        wanted = plain(given, t)["video"]
        (known,) = net.precompute_modulation(t[:1], guidance=3.0)
        packing = Packing.from_masks([None, None], [9, 18], 2)
        for got in (
            net(given, t, guidance=3.0)["video"],
            net(given, {"text": t, "video": t}, guidance=3.0)["video"],
            net(given, t, guidance=3.0, masks=packing)["video"],
            torch.stack(net({name: list(x) for name, x in given.items()}, t, guidance=3.0)["video"]),
        ):
            torch.testing.assert_close(got, wanted)
        torch.testing.assert_close(
            net(given, modulation=known)["video"], net(given, t[:1].expand(2), guidance=3.0)["video"]
        )
        with pytest.raises(ValueError, match="in a list each sample has first frames of another size"):
            net({name: list(x) for name, x in given.items()}, modulation=known)


def test_frames_that_are_given_stand_before_those_that_are_drawn():
    net = made("video", clean_frames=1, output={"kind": "patches", "channels": 2})
    given, grid = inputs(), [1.0, 0.5, 0.0]
    video = given.pop("video")
    first, wanted = video[:, :, :2], video[:, :, 2:]
    with torch.no_grad():
        for t, end in ((1.0, 0.5), (0.5, 0.0)):
            seen = torch.cat([first, wanted], 2)
            wanted = wanted + (end - t) * net(given | {"video": seen}, 1000 * t)["video"][:, :, 2:]
        for known in (None, grid):
            velocity = network_velocity(net, given, frames={"video": first}, sigmas=known)
            got = sample(velocity, {"video": video[:, :, 2:]}, sigmas=grid)["video"]
            torch.testing.assert_close(got, wanted)


def test_the_mean_of_what_came_in_is_that_of_the_valid_tokens():
    x, mask = randn(3, 4, 5), torch.tensor([[True, True, True, False], [False, True, False, False], [False] * 4])
    wanted = torch.stack([x[0, :3].mean(0), x[1, 1], torch.zeros(5)])
    assert torch.allclose(mean_of(x, mask), wanted, atol=1e-6)
    assert torch.allclose(mean_of(x, None), x.mean(1), atol=1e-6)


@pytest.mark.parametrize("parts", ["scale_gate", "gate"])
def test_what_the_modulation_does_not_give_the_norms_and_branches_do_without(parts):
    options = BlockOptions(dim_cond=6, heads=2, dim_head=4, modulation=ModulationOptions(parts=parts))
    block = drawn(MMDiTBlock(options, dim_modalities=[8])).eval()
    x, cond = randn(2, 3, 8), randn(2, 6)
    given = dict(
        zip(
            block.modulations[0].parts,
            block.modulations[0].linear(F.silu(cond))[:, None].chunk(4 if parts == "scale_gate" else 2, -1),
            strict=True,
        )
    )

    def normed(x, norm, scale):
        out = F.layer_norm(x, (8,), norm.norm.weight, norm.norm.bias, 1e-6)
        return out * (1 + scale) if scale is not None else out

    assert (block.attn_norms[0].norm.weight is not None) == (parts == "gate")
    (attended,) = block.joint_attn([normed(x, block.attn_norms[0], given.get("attn_scale"))])
    wanted = x + given["attn_gate"] * attended
    fed = block.feedforwards[0](normed(wanted, block.ff_norms[0], given.get("ff_scale")))
    (got,) = block(modality_tokens=[x], time_cond=cond)
    assert torch.allclose(got, wanted + given["ff_gate"] * fed, atol=1e-5)


def test_a_modality_that_a_block_does_not_write_has_no_gates_and_so_no_modulation():
    options = BlockOptions(dim_cond=6, heads=2, dim_head=4, modulation=ModulationOptions(parts="gate"))
    block = MMDiTBlock(options, dim_modalities=[8, 8], discard=[0], skip_feedforward=[0])
    assert isinstance(block.modulations[0], NoModulation) and isinstance(block.modulations[1], Modulation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            changed("video", rotary=None, input={"kind": "patches", "channels": 2, "patch": [1, 2, 2]}),
            "positions: none",
        ),
        (changed("video", input={"kind": "patches", "channels": 2, "patch": [1, 2]}), "3 or more entries"),
        (changed("video", input={"kind": "patches", "channels": 2, "patch": [1] * 4, "positions": "none"}), "got 4"),
        (changed("video", rotary={"axes": [1, 2]}), "a video three, that of its frames first"),
        (changed("text", inputs=None), "tell several inputs apart"),
        (changed("text", rotary={"axes": [0]}), "further inputs have no places"),
        (changed("text", inputs={"video": {"kind": "linear", "dim": 3}}), "'video' is the name of another input"),
        (changed("text", input=None), "an input of kind linear or mlp"),
        (changed("text", refiner={"depth": 1, "dim_head": 4, "attention": {"kind": "adaptive"}}), "refiner.attention"),
        (changed("text", {"dim_cond": None, "timestep": None}, refiner={"depth": 1}), "set dim_cond, or conditioning"),
        (changed("text", refiner={"depth": 0}), "refiner.depth"),
        (changed("text", clean_frames=1), "clean_frames: they are those of a video"),
        (changed("video", {"register_tokens": {"video": 1}}, clean_frames=1), "clean_frames: frames that are given"),
        (changed("video", {"timestep": None, "dim_cond": None}, clean_frames=1), "no timestep to be 0"),
    ],
)
def test_options_that_contradict_one_another_are_refused(change, message):
    with pytest.raises((OptionError, ValueError), match=message):
        mmdit.build(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"glyphs": None}, "inputs must be named text, glyphs, sight, video, got text, video, sight"),
        ({"video": randn(2, 2, 3, 6)}, r"video must have the shape \(batch, 2, frames, height, width\)"),
        ({"video": randn(2, 2, 3, 3, 6)}, "frames, height and width that are multiples of 2, 1, 2, got"),
        ({"glyphs": randn(2, 3, 4)}, r"glyphs must have the shape \(batch, length, 5\)"),
        ({"sight": randn(1, 2, 3)}, "sight has a batch of 1"),
    ],
)
def test_a_wrong_input_is_named(change, message):
    given = {name: x for name, x in (inputs() | change).items() if x is not None}
    with pytest.raises(ValueError, match=message):
        made()(given, torch.rand(2))


def test_a_wrong_mask_of_a_further_input_is_named():
    for masks, message in (
        ({"glyph": torch.ones(2, 3, dtype=torch.bool)}, "masks must be named"),
        ({"glyphs": torch.ones(2, 4, dtype=torch.bool)}, r"glyphs mask must have the shape \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            made()(inputs(), torch.rand(2), masks=masks)
