"""The shape check: sound models pass, and what breaks is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmdit.config import build
from mmdit_cli.shape_check.shapes import check_model, check_shapes
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
