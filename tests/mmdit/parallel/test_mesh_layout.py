"""How processes are arranged, and what is refused before any of them speaks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import mmdit
from mmdit.parallel import MeshLayout
from mmdit.parallel.mesh_layout import layout_of
from mmdit.parallel.parallelize import check_layout
from tests.support.small_configs import config


class Mesh:
    """What `layout_of` asks of a mesh."""

    def __init__(self, **sizes: int) -> None:
        self.sizes, self.mesh_dim_names, self.ndim = sizes, tuple(sizes), len(sizes)

    def __getitem__(self, name: str) -> Any:
        return SimpleNamespace(size=lambda: self.sizes[name])


def test_a_mesh_may_have_some_of_the_dimensions():
    assert layout_of(Mesh(shard=2, tensor=4)) == MeshLayout(shard=2, tensor=4)  # type: ignore[arg-type]
    assert MeshLayout(shard=2, tensor=4).size == 8 and str(MeshLayout(shard=2, tensor=4)) == "shard 2 x tensor 4"


@pytest.mark.parametrize("sizes", [dict(dp=2), dict(tensor=2, shard=2), {}])
def test_other_dimensions_or_another_order_are_refused(sizes):
    mesh = Mesh(**sizes)
    mesh.ndim = max(1, mesh.ndim)
    with pytest.raises(ValueError, match="some of replicate, shard, context, tensor, in this order"):
        layout_of(mesh)  # type: ignore[arg-type]


def test_less_than_one_process_is_refused():
    with pytest.raises(ValueError, match="tensor must be at least 1, got 0"):
        MeshLayout(tensor=0)


@pytest.mark.parametrize(
    ("model", "sizes", "message"),
    [
        ({}, dict(tensor=4), "tensor=4: 4 processes do not divide the 2 heads of blocks.0.joint_attn"),
        ({}, dict(context=4), "context=4: 4 processes do not divide the 2 heads"),
        ({"heads": 6}, dict(context=2, tensor=2), "context=2 x tensor=2: 4 processes do not divide the 6 heads"),
        (
            {"heads": 4, "attention": {"kv_heads": 2}},
            dict(tensor=4),
            "do not divide the 2 heads of keys and values of blocks.0.joint_attn",
        ),
        (
            {"heads": 4, "feedforward": {"dim": 10}},
            dict(tensor=4),
            "tensor=4 does not divide the 10 hidden features of blocks.0.feedforwards.0",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_the_network_is_refused(model, sizes, message):
    with torch.device("meta"):
        net = mmdit.build(config(**model).model)
    with pytest.raises(ValueError, match=message):
        check_layout(net, Mesh(**sizes))  # type: ignore[arg-type]


def test_what_holds_no_stack_of_blocks_is_refused():
    with pytest.raises(ValueError, match="takes an MMDiT or MMDiTModel, or what holds one, got Linear"):
        check_layout(torch.nn.Linear(2, 2), Mesh(shard=2))  # type: ignore[arg-type]
