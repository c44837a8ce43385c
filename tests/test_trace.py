from __future__ import annotations

import json

import torch

import mmdit
from mmdit_cli.measure.components import find_components
from mmdit_cli.measure.trace import write_trace


def test_a_trace_has_the_operators_and_the_components_and_leaves_no_hooks(tmp_path):
    net = mmdit.build({"depth": 1, "modalities": {"a": {"dim": 8}}, "heads": 1, "dim_head": 8})
    x = torch.randn(1, 4, 8)
    write_trace(lambda: net(modality_tokens=[x]), tmp_path / "t.json", torch.device("cpu"), find_components(net))
    names = [event.get("name") for event in json.loads((tmp_path / "t.json").read_text())["traceEvents"]]
    assert "aten::linear" in names and names.count("qkv projection, a") == 1 and "attention" in names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]
