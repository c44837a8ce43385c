"""Images that are given beside the one that is drawn."""

from __future__ import annotations

import pytest
import torch

import mmdit
from mmdit.networks.places import RotaryPlaces
from mmdit.options import OptionError
from mmdit.packing import Packing
from tests.support.draws import drawn, padded_mask, randn

CONFIG = {
    "model": {
        "depth": 2,
        "modalities": {
            "text": {"dim": 16, "input": {"kind": "linear", "dim": 6}, "rotary": {"axes": [1, 2]}},
            "image": {
                "dim": 16,
                "input": {"kind": "patches", "channels": 2, "patch": 2, "positions": "none"},
                "output": {"kind": "patches", "channels": 2},
                "rotary": {"axes": [1, 2]},
                "references": {"axis": 0, "start": 10, "step": 5},
            },
        },
        "timestep": {"frequencies": 8},
        "dim_cond": 16,
        "heads": 2,
        "dim_head": 8,
        "rotary": {"axes": [4, 2, 2]},
    }
}


BY_SAMPLE = {"attention": {"kind": "adaptive", "num_adaptive_weights": 2, "gating": "sample"}}


def made(clean=False, **rotary):
    config = {
        "model": {**CONFIG["model"], "modalities": {k: dict(v) for k, v in CONFIG["model"]["modalities"].items()}}
    }
    modality = config["model"]["modalities"]["image"]
    modality["rotary"] = {**modality["rotary"], **rotary}
    modality["references"] = {**modality["references"], "clean": clean}
    return drawn(mmdit.build(config)).eval()


def inputs(batch=2):
    return {"text": randn(batch, 3, 6), "image": randn(batch, 2, 4, 6)}


def test_references_stand_apart_on_their_axis_each_with_rows_and_columns_of_its_own():
    net = made(start=[1, 7, 0], scale=0.5)
    references = {"image": [randn(1, 2, 2, 4), randn(1, 2, 4, 2)]}
    text, image = RotaryPlaces(net.config)(inputs(1), references)
    assert text[:, 1].tolist() == [0, 1, 2]
    rows_and_columns = [(r, c) for r in range(2) for c in range(3)]
    wanted = [(1, 7 + r / 2, c / 2) for r, c in rows_and_columns]
    wanted += [(11, 7, 0), (11, 7, 0.5), (16, 7, 0), (16, 7.5, 0)]
    assert [tuple(place) for place in image.tolist()] == wanted


def test_beside_a_video_they_may_be_frames_before_it():
    modalities, size = CONFIG["model"]["modalities"], [1, 2, 2]
    video = {**modalities["image"], "input": {**modalities["image"]["input"], "patch": size}}
    video |= {"rotary": {"axes": [0, 1, 2], "centered": True}, "references": {"axis": 0, "start": -1, "step": -2}}
    text = {**modalities["text"], "rotary": {"axes": [0, 1, 2], "after": "image"}}
    config = {"model": {**CONFIG["model"], "modalities": {"text": text, "image": video}}}
    net, references = mmdit.build(config), {"image": [torch.ones(1, 2, 1, 2, 4), torch.ones(1, 2, 2, 2, 2)]}
    for layers in (2, 5):  # text begins behind the last frame, row or column
        given = {"text": torch.ones(1, 3, 6), "image": torch.ones(1, 2, layers, 2, 12)}
        words, image = RotaryPlaces(net.config)(given, references)
        assert words[0].tolist() == [max(layers, 3)] * 3
        assert image[:, 0].tolist() == [float(frame) for frame in range(layers) for _ in range(6)] + [-1, -1, -3, -2]
        assert image[-4:, 2].tolist() == [-1, 0, -1, -1]


def test_an_image_begins_behind_the_text_that_there_is():
    net = made(start=[1, 0, 0], after="text")
    _, image = RotaryPlaces(net.config)(inputs(1), {"image": [randn(1, 2, 2, 2)]})
    assert image[0].tolist() == [1, 3, 3] and image[5].tolist() == [1, 4, 5]
    assert image[6].tolist() == [11, 3, 3]


def test_a_reference_changes_the_image_which_alone_is_returned():
    net, given, t = made(), inputs(), torch.rand(2)
    with torch.no_grad():
        alone = net(given, t)
        beside = net(given, t, references={"image": [randn(2, 2, 6, 2)]})
        nothing = net(given, t, references={"image": []})
    assert {name: x.shape for name, x in beside.items()} == {name: x.shape for name, x in alone.items()}
    assert (beside["image"] - alone["image"]).abs().max() > 0.01
    assert torch.equal(nothing["image"], alone["image"])


def test_beside_references_masked_tokens_change_nothing_packed_or_not():
    net, given, t = made(), inputs(), torch.rand(2)
    references = {"image": [randn(2, 2, 6, 2)]}
    masks = {"text": torch.tensor([[True, True, False]] * 2), "image": torch.tensor([[True] * 4 + [False] * 2] * 2)}
    with torch.no_grad():
        wanted = net({**given, "text": given["text"][:, :2]}, t, masks={"image": masks["image"]}, references=references)
        masked = net(given, t, masks=masks, references=references)
        net.transformer.varlen = True
        packed = net(given, t, masks=masks, references=references)
    for got in (masked, packed):
        assert torch.allclose(got["image"][:, :, :2], wanted["image"][:, :, :2], atol=1e-6)


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({"text": [randn(2, 3, 6)]}, "text takes none; set model.modalities.text.references"),
        ({"sound": []}, "sound"),
        (
            {"image": [randn(2, 3, 4, 4)]},
            r"references: image\[0\] must have the shape \(batch, 2, height, width\)",
        ),
        (
            {"image": [randn(1, 2, 4, 4)]},
            r"references: image\[0\] has a batch of 1, but the inputs have one of 2",
        ),
    ],
)
def test_what_is_no_reference_is_said(references, message):
    with pytest.raises(ValueError, match=message):
        made()(inputs(), torch.rand(2), references=references)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotary": None}, "references are further images of one with rotary positions"),
        ({"references": {"axis": 1}}, "an axis below 3 that is none of its rows' and columns', got 1"),
        ({"references": {"axis": 3}}, "an axis below 3 that is none of its rows' and columns', got 3"),
        ({"rotary": {"axes": [1, 2], "start": [1, 2]}}, "there are 3 axes, got 2 numbers"),
        (
            {"references": {"clean": True}, "register_tokens": 1},
            "references.clean: .* register tokens in front of 'image'",
        ),
        ({"references": {"clean": True}, **BY_SAMPLE}, "references.clean: .* does not go with one gate of the sample"),
    ],
)
def test_options_that_contradict_one_another_are_refused(change, message):
    model = CONFIG["model"]
    of_model = {key: value for key, value in change.items() if key in ("register_tokens", "attention")}
    image = {**model["modalities"]["image"], **{k: v for k, v in change.items() if k not in of_model}}
    with pytest.raises((OptionError, ValueError), match=message):
        mmdit.build({"model": {**model, **of_model, "modalities": {**model["modalities"], "image": image}}})


def test_without_references_clean_ones_change_no_timestep_of_a_token():
    plain, given, t = made(), inputs(), torch.rand(2, 6)
    clean = made(clean=True)
    clean.load_state_dict(plain.state_dict())
    times = {"text": t[:, 0], "image": t}
    torch.testing.assert_close(clean(given, times)["image"], plain(given, times)["image"])
    with pytest.raises(ValueError, match=r"timestep of image must have the shape \(batch,\) = \(2,\), got \(2, 10\)"):
        clean(given, times | {"image": torch.rand(2, 10)}, references={"image": [randn(2, 2, 4, 4)]})
    with pytest.raises(ValueError, match=r"timestep of image must .* or \(batch, tokens\) = \(2, 10\), got \(2, 6\)"):
        plain(given, times, references={"image": [randn(2, 2, 4, 4)]})


@pytest.mark.parametrize("how", ["padded", "varlen", "packing", "list"])
def test_behind_a_masked_text_an_image_begins_where_it_begins_behind_its_valid_words(how):
    net, given, t = made(start=[1, 0, 0], after="text"), inputs(3), torch.rand(3)
    masks = {"text": padded_mask(3, 2, 3, 0)}
    references = {"image": [randn(3, 2, 2, 4)]}
    net.transformer.varlen = how == "varlen"
    if how == "list":
        sized, masks, references = {"text": given["text"], "image": [*given["image"]]}, masks, None
    else:
        sized = given
    if how == "packing":
        masks = Packing.from_masks([masks["text"], None], [3, 8], 3)
    got = net(sized, t, masks=masks, references=references)["image"]
    for i, count in enumerate((2, 3, 0)):
        one = {"text": given["text"][i : i + 1, :count], "image": given["image"][i : i + 1]}
        own = None if references is None else {"image": [x[i : i + 1] for x in references["image"]]}
        torch.testing.assert_close(got[i], net(one, t[i : i + 1], references=own)["image"][0])


@pytest.mark.slow
def test_with_references_it_is_exported_for_any_batch():
    net, batch = made(clean=True), {0: torch.export.Dim("batch")}

    class Flat(torch.nn.Module):
        def forward(self, given, t, references):
            return net(given, t, references={"image": references})["image"]

    def call(batch):
        return inputs(batch), torch.rand(batch), [randn(batch, 2, 2, 4)]

    shapes = dict(given={"text": batch, "image": batch}, t=batch, references=[batch])
    with torch.no_grad():
        program, arguments = torch.export.export(Flat(), call(2), dynamic_shapes=shapes).module(), call(3)
        torch.testing.assert_close(program(*arguments), Flat()(*arguments))
