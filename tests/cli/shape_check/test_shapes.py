"""The shape check: sound models pass, and what breaks is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmdit.config import build
from mmdit_cli.shape_check.shapes import check_model, check_shapes
from mmdit_cli.shape_check.tables import shape_tables
from tests.support.small_configs import BATCH, IMAGE, VARIANTS, D, config

CPU = torch.device("cpu")


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_of_sound_models_are_right(variant):
    result = check_shapes(config(**VARIANTS[variant]))
    assert result.ok and not result.problems and not result.notes
    assert result.outputs["image"] == [BATCH, IMAGE, D[1]]
    assert ("text" in result.outputs) == (variant != "discard")
    assert any(layer.name == "blocks.1.joint_attn" for layer in result.layers)


def test_a_layer_that_breaks_is_named():
    chosen = config()
    with torch.device("meta"):
        net = build(chosen.model)
        net.blocks[1].feedforwards[0].proj_out = nn.Linear(4 * D[0], D[0] + 1)
    result = check_model(net, chosen)
    assert not result.ok
    (problem,) = result.problems
    assert problem.startswith("blocks.1.ff_residuals.0.depth: ")


def test_a_modality_of_the_wrong_shape_is_named_with_got_and_wanted():
    chosen = config()
    with torch.device("meta"):
        net = build(chosen.model)
        net.final_norms[1] = nn.Linear(D[1], 5)
    result = check_model(net, chosen)
    assert result.problems == [f"the last block, image: got [{BATCH}, {IMAGE}, 5], wanted [{BATCH}, {IMAGE}, {D[1]}]"]


def test_parameters_without_a_gradient_are_noted():
    result = check_shapes(config(discard=["text"], qk_rmsnorm=True, unused_weights="queries"))
    assert result.ok
    assert result.notes == ["no gradient reaches blocks.1.joint_attn.q_norms.0.weight"]


IMAGE_END = {"kind": "patches", "channels": 4, "patch": 2}
TEXT_END = {"kind": "linear", "dim": 8}


@pytest.mark.parametrize(
    ("image", "more", "problem", "advice"),
    [
        (
            {},
            {},
            "image: goes in as a picture and comes out as tokens; give it output: {kind: patches, channels: 4}",
            "",
        ),
        ({"output": {"kind": "patches", "channels": 4}}, {}, "", "set discard: [text]"),
        ({"output": {"kind": "patches", "channels": 4}}, {"discard": ["text"]}, "", ""),
    ],
)
def test_a_missing_output_head_and_a_modality_to_discard_are_named(image, more, problem, advice):
    modalities = {"text": {"dim": 8, "input": TEXT_END}, "image": {"dim": 8, "input": IMAGE_END} | image}
    chosen = config(modalities=modalities, timestep={}, **more)
    result = check_shapes(chosen)
    assert result.ok == (not problem) and [text for text in result.problems if problem not in text] == []
    assert len(result.problems) == bool(problem) and len(result.advice) == bool(advice)
    assert advice in "".join(result.advice)
    verdict = [str(part) for part in shape_tables(result, every_layer=False)][2]
    assert (verdict == "every shape is right") == (not problem and not advice)
