from __future__ import annotations

import math

import pytest
import torch
from conftest import drawn, padded_mask, randn

import mmdit
from mmdit import MMDiTModel
from mmdit.config import ConfigError
from mmdit.positions import SinCos2D, sinusoid

CONFIG = {
    "variant": "generalized",
    "depth": 2,
    "modalities": {
        "text": {"dim": 8, "input": {"kind": "tokens", "vocabulary": 20, "max_length": 6}},
        "image": {
            "dim": 12,
            "input": {"kind": "patches", "channels": 3, "patch": 2, "max_size": 6, "base_size": 3},
            "output": {"kind": "patches", "channels": 5},
        },
        "audio": {
            "dim": 8,
            "input": {"kind": "linear", "dim": 4, "positions": "sincos"},
            "output": {"kind": "linear", "dim": 7},
        },
    },
    "discard": ["text"],
    "timestep": {"frequencies": 16},
    "pooled": {"dim": 10},
    "dim_cond": 6,
    "heads": 2,
    "dim_head": 4,
}


def inputs(height=8, width=4, audio=5):
    return {"text": torch.randint(20, (2, 6)), "image": randn(2, 3, height, width), "audio": randn(2, audio, 4)}


def model(**changes) -> MMDiTModel:
    return drawn(mmdit.build(CONFIG | changes))


def test_every_end_gives_its_own_form():
    net = model()
    out = net(inputs(), torch.rand(2), randn(2, 10), {"text": padded_mask(6, 2, 6)})
    assert {name: tuple(x.shape) for name, x in out.items()} == {"image": (2, 5, 8, 4), "audio": (2, 5, 7)}


def test_a_config_without_ends_is_the_bare_transformer():
    bare = {"depth": 1, "modalities": {"a": {"dim": 8}, "b": {"dim": 4}}, "heads": 2, "dim_head": 4}
    net = mmdit.build({"model": bare})
    assert type(net).__name__ == "MMDiT"
    assert [x.shape for x in net(modality_tokens=(torch.randn(1, 2, 8), torch.randn(1, 3, 4)))] == [
        (1, 2, 8),
        (1, 3, 4),
    ]
    named = {"variant": "two_modality", **bare, "modalities": {"text": {"dim": 8}, "image": {"dim": 4}}}
    assert isinstance(mmdit.build(named), mmdit.MMDiT)


def test_images_of_other_sizes_and_masked_words_go_through():
    net, given = model(), inputs(12, 6, 3)
    masks = {"text": padded_mask(6, 2, 4)}
    before = net(given, torch.rand(2) * 0 + 0.5, torch.ones(2, 10).double(), masks)
    given["text"] = torch.where(masks["text"], given["text"], torch.randint(20, (2, 6)))
    after = net(given, torch.rand(2) * 0 + 0.5, torch.ones(2, 10).double(), masks)
    assert before["image"].shape == (2, 5, 12, 6)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_each_modality_can_have_a_timestep_of_its_own():
    net, given, t, pooled = model(), inputs(), torch.rand(2), randn(2, 10)
    same = net(given, {"text": t, "image": t, "audio": t}, pooled)
    assert all(torch.equal(x, net(given, t, pooled)[name]) for name, x in same.items())
    other = net(given, {"text": t, "image": t, "audio": t + 0.5}, pooled)
    assert not torch.allclose(other["image"], same["image"])


def test_patches_come_out_where_they_went_in():
    """A head that copies the mean of each input patch must give an image of the means, patch by patch."""
    net, image = model(), randn(2, 3, 8, 4)
    embed, head = net.inputs["image"], net.outputs["image"]
    patches = image.unfold(2, 2, 2).unfold(3, 2, 2)  # b c h w p q
    wanted = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2) @ embed.linear.weight.T + embed.linear.bias
    embed.positions = torch.nn.Identity()
    torch.testing.assert_close(embed(image, "image"), wanted)

    means = torch.zeros(2, 8, 12).double()
    means[..., 0] = patches.mean((1, 4, 5)).flatten(1)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.weight[:, 0] = 1
        head.linear.bias.zero_()
    head.norm.forward = lambda x, shift, scale: x
    out = head(means, None, image)
    torch.testing.assert_close(out[:, 0], patches.mean((1, 4, 5)).repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_positions_are_a_central_crop_of_one_table():
    dim, size, base = 12, 6, 3
    table = torch.empty(size, size, dim, dtype=torch.float64)
    for row in range(size):
        for column in range(size):
            for k in range(dim // 4):
                frequency = 10_000 ** (-k / (dim // 4))
                for half, place in ((0, column), (dim // 2, row)):
                    angle = place * base / size * frequency
                    table[row, column, half + k] = math.sin(angle)
                    table[row, column, half + dim // 4 + k] = math.cos(angle)
    positions = SinCos2D(dim, max_size=size, base_size=base)
    got = positions(torch.zeros(1, 3, 4, dim, dtype=torch.float64))[0]
    torch.testing.assert_close(got, table[1:4, 1:5])
    with pytest.raises(ValueError, match="reach 6 patches a side, got 7 x 4"):
        positions(torch.zeros(1, 7, 4, dim))


def test_timesteps_are_embedded_cosines_first():
    t = torch.tensor([0.0, 3.0, 777.0])
    got = sinusoid(t, 6, cos_first=True)
    for i, value in enumerate(t.tolist()):
        angles = [value * 10_000 ** (-k / 3) for k in range(3)]
        torch.testing.assert_close(
            got[i], torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles]).double()
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g["inputs"].pop("audio"), "inputs must be named text, image, audio, got text, image"),
        (lambda g: g["inputs"].update(video=1), "inputs must be named"),
        (lambda g: g.update(masks={"sound": None}), "masks must be named"),
        (lambda g: g.update(timestep=None), "timestep is missing"),
        (lambda g: g.update(timestep=torch.rand(3)), r"timestep must have the shape \(batch,\) = \(2,\), got \(3,\)"),
        (lambda g: g.update(pooled=None), "this model needs a pooled vector, got none"),
        (
            lambda g: g.update(pooled=randn(2, 9)),
            r"pooled must have the shape \(batch, dim\) = \(2, 10\), got \(2, 9\)",
        ),
        (
            lambda g: g["inputs"].update(image=randn(2, 4, 8, 4)),
            r"image must have the shape \(batch, 3, height, width\)",
        ),
        (lambda g: g["inputs"].update(image=randn(2, 3, 7, 4)), "multiples of 2, got"),
        (lambda g: g["inputs"].update(audio=randn(2, 5, 3)), r"audio must have the shape \(batch, length, 4\)"),
        (lambda g: g["inputs"].update(text=torch.zeros(2, 7).long()), "length up to 6"),
        (lambda g: g["inputs"].update(text=randn(2, 6)), "text must be integer ids"),
    ],
)
def test_wrong_calls_are_named(change, message):
    given = {"inputs": inputs(), "timestep": torch.rand(2), "pooled": randn(2, 10)}
    change(given)
    with pytest.raises(ValueError, match=message):
        model()(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discard": ["text", "audio"]}, "'audio' is discarded, so it can have no output head"),
        ({"timestep": None, "pooled": None}, "makes its conditioning from the timestep"),
        ({"dim_cond": None}, "dim_cond, which is null"),
        ({"variant": "two_modality"}, "two_modality needs exactly text, image in this order, got text, image, audio"),
        ({"attention": {"dual": [2]}}, "block 2 does not exist; depth is 2"),
        ({"heads": 2, "dim_joint_attn": 9}, "must be heads"),
        ({"residual": {"kind": "plain", "streams": 2}}, "kind 'plain' has 1 stream"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        mmdit.build(CONFIG | change)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sd3-medium", 2_028_328_000), ("sd3.5-medium", 2_243_171_520), ("sd3.5-large", 8_056_627_520)],
)
def test_the_sd3_family_has_its_published_parameters(name, parameters):
    with torch.device("meta"):
        net = mmdit.build(f"configs/{name}.yaml")
    assert sum(p.numel() for p in net.parameters()) == parameters
