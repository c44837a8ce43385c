"""What is fed to a network of video and of further inputs."""

from __future__ import annotations

import copy

import pytest
import torch

import mmdit
from mmdit.config import ConfigError
from mmdit.config.file import validate_mapping
from mmdit_cli.export.preconditions import Export
from mmdit_cli.export.weights_export import export_model
from mmdit_cli.memory.demand import Demand, shrunk
from mmdit_cli.model_parts.components import find_components
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import FedConfig, ToolConfig, as_tool_config
from mmdit_cli.shape_check.shapes import check_shapes
from tests.support.marks import slow_but

TEXT = {
    "dim": 8,
    "input": {"kind": "linear", "dim": 5},
    "refiner": {"depth": 1, "conditioning": "own"},
    "inputs": {"glyphs": {"kind": "mlp", "dim": 3, "hidden": [4]}},
    "type_embedding": True,
}
VIDEO = {
    "dim": 8,
    "input": {"kind": "patches", "channels": 2, "patch": [1, 2, 2], "positions": "none"},
    "output": {"kind": "patches", "channels": 2},
    "rotary": {"axes": [0, 1, 2]},
}
CONFIG = {
    "model": {
        "depth": 1,
        "modalities": {"text": TEXT, "video": VIDEO},
        "timestep": {"frequencies": 4},
        "dim_cond": 8,
        "heads": 1,
        "dim_head": 8,
        "rotary": {"axes": [4, 2, 2]},
    },
    "run": {
        "batch_size": 2,
        "tokens": {"text": 4, "glyphs": 3, "video": 30},
        "frames": {"video": 5},
        "mask": {"text": 0.5, "glyphs": 0.34},
    },
}


def made(schema=ToolConfig, **run):
    changed = copy.deepcopy(CONFIG)
    changed["run"] |= run
    return validate_mapping(changed, schema, source="config")


def test_a_video_has_its_frames_and_every_input_its_tokens_and_mask():
    config = made()
    given = example_inputs(config)
    shapes = {name: tuple(x.shape) for name, x in given.kwargs["inputs"].items()}
    assert shapes == {"text": (2, 4, 5), "glyphs": (2, 3, 3), "video": (2, 2, 5, 4, 6)}
    assert {name: m.sum().item() for name, m in given.kwargs["masks"].items()} == {"text": 4, "glyphs": 2}
    assert given.tokens == {"text": 7, "video": 30}
    assert config.valid_tokens() == {"text": 3, "video": 30}
    result = check_shapes(config)
    assert result.ok and result.outputs["video"] == [2, 2, 5, 4, 6]


def test_each_reference_of_a_video_is_one_of_its_frames_and_a_class_is_drawn():
    video = {**VIDEO, "references": {"axis": 0, "start": -1, "step": -1}}
    model = {**CONFIG["model"], "modalities": {"text": TEXT, "video": video}, "class_labels": {"classes": 3}}
    config = as_tool_config({"model": model, "run": {**CONFIG["run"], "references": {"video": 2}}})
    given = example_inputs(config)
    assert [tuple(x.shape) for x in given.kwargs["references"]["video"]] == [(2, 2, 1, 4, 6)] * 2
    assert given.tokens == {"text": 7, "video": 30 + 2 * 6}
    assert given.kwargs["class_labels"].shape == (2,) and given.kwargs["class_labels"].max() < 3
    net = mmdit.build(config.model)
    assert net(**given.kwargs)["video"].shape == (2, 2, 5, 4, 6)
    counted = sum(p.numel() for component in find_components(net) for m in component.modules for p in m.parameters())
    assert counted == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("varlen", slow_but([False, True], True))
def test_every_parameter_is_of_a_component_and_every_flop_is_counted(varlen):
    config = as_tool_config(CONFIG | {"model": CONFIG["model"] | {"varlen": varlen}})
    net = mmdit.build(config.model)
    found = [p for component in find_components(net) for m in component.modules for p in m.parameters()]
    assert {id(p) for p in found} == {id(p) for p in net.parameters()}
    counted = count_flops(config)
    assert sum(component.flops for component in counted.components) == counted.forward_flops
    linears: list[int] = []
    for module in net.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda m, args, out: linears.append(2 * args[0].shape[:-1].numel() * m.weight.numel())
            )
    net(**example_inputs(config).kwargs)
    assert counted.linear_flops == sum(linears)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            {"frames": {"video": 4}},
            "run.frames.video: 4 frames can't share 30 tokens equally; run.tokens.video could be 28 or 32",
        ),
        ({"frames": {"video": 40}}, "40 frames can't share 30 tokens equally; run.tokens.video could be 40"),
        ({"frames": {"text": 2}}, "run.frames.text: 'text' is no video, whose patches are of three sizes"),
        ({"frames": {"glyphs": 1}}, "'glyphs' is no modality of the model; they are text, video"),
        ({"tokens": {"letters": 1}}, "'letters' is no modality of the model; they are text, video, glyphs"),
    ],
)
def test_what_no_network_can_be_fed_is_said(run, message):
    with pytest.raises(ConfigError, match=message):
        made(FedConfig, **run)


def test_a_smaller_video_keeps_its_frames(monkeypatch):
    monkeypatch.setattr(Demand, "peak", lambda demand: sum(demand.config.all_tokens().values()))
    demand = Demand(made(FedConfig), "forward", torch.float32, torch.device("cpu"))
    smaller = shrunk(demand, demand.peak() - 1)["--set run.tokens.video=20"]
    assert smaller.config.patch_grid("video") == (5, 2, 2)


def test_an_export_of_a_network_of_video_is_compared(tmp_path):
    assert export_model(made(), Export(out=tmp_path / "m.safetensors")).verified
