"""A process's memory and what it sends, of models that are really cut."""

from __future__ import annotations

import gc
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from benchmarks.parallel.truth import truths
from mmdit.config import build
from mmdit.parallel import MeshLayout
from mmdit_cli.memory.rank_estimate import RankEstimator, estimate_rank, with_copies
from mmdit_cli.request.tool_config import ToolConfig, as_tool_config
from tests.support.marks import slow_but

BF16 = torch.bfloat16
LAYOUTS = (
    MeshLayout(),
    MeshLayout(shard=3),
    MeshLayout(replicate=2, shard=2),
    MeshLayout(shard=2, tensor=2),
    MeshLayout(shard=2, context=2),
)


def config(depth: int = 1, **model) -> ToolConfig:
    base = {"depth": depth, "modalities": {"text": {"dim": 24}, "image": {"dim": 40}}, "heads": 4, "dim_head": 8}
    run = {"batch_size": 2, "tokens": {"text": 5, "image": 16}}
    return as_tool_config({"name": "small", "model": base | {"dim_cond": 16} | model, "run": run})


def padded(shape: tuple[int, ...], count: int) -> int:
    """Numbers of a weight that is filled up so that its rows can be divided."""
    return -(-shape[0] // count) * count * math.prod(shape[1:])


def test_fsdp_holds_and_sends_what_its_formula_says():
    """Shards in float32; blocks gathered in bfloat16 for each pass, the rest once, gradients scattered in float32."""
    chosen, count = config(), 3
    model = build(chosen.model)
    blocks, every = (sum(padded(p.shape, count) for p in part.parameters()) for part in (model.blocks, model))
    step = estimate_rank(chosen, MeshLayout(shard=count), BF16)
    assert step.memory.weights == step.memory.gradients == 4 * every // count
    payload = Counter()
    for collective, traffic in step.sent.items():
        assert collective.by == "fsdp" and collective.ranks == tuple(range(count))
        assert traffic.sent(collective) == pytest.approx(traffic.payload * (count - 1) / count)
        payload[collective.kind] += traffic.payload
    assert payload == {"all_gather": 2 * (every + blocks), "reduce_scatter": 4 * every}
    assert not dist.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_shortened_model_gives_the_whole_models_figures(layout, checkpoint):
    chosen = config(7)
    short, whole = (estimate_rank(chosen, layout, BF16, checkpoint=checkpoint, whole=w) for w in (False, True))
    assert short == whole


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("layout", [LAYOUTS[2], MeshLayout(replicate=3, shard=2, tensor=2)], ids=str)
def test_copies_hold_what_one_does_and_reduce_what_it_has_scattered(layout, checkpoint):
    one, several = (
        estimate_rank(config(3), each, BF16, checkpoint=checkpoint) for each in (replace(layout, replicate=1), layout)
    )
    assert with_copies(one, layout) == several
    with pytest.raises(ValueError, match="nothing is scattered"):
        with_copies(replace(one, sent={}), layout)


def test_processes_of_several_layouts_are_estimated_one_after_the_other():
    """Nothing that torch keeps of the groups before is taken for one of these."""
    estimator, by_context = RankEstimator(config(), BF16), MeshLayout(context=2, tensor=2)
    for layout in (MeshLayout(shard=2, tensor=2), by_context):
        first, last = (estimator.estimate(layout, rank=rank).memory.weights for rank in (0, 3))
        assert first == last
    assert estimator.estimate(by_context) == estimate_rank(config(), by_context, BF16)


@pytest.mark.parametrize("layout", slow_but(LAYOUTS, LAYOUTS[3]), ids=str)
def test_no_tensor_waits_for_the_garbage_collector(layout):
    """It would be held for as long as Python pleases."""
    gc.collect()
    gc.disable()
    try:
        never = estimate_rank(config(3), layout, BF16, checkpoint=True)
    finally:
        gc.enable()
    before = gc.get_threshold()
    gc.set_threshold(100)
    try:
        often = estimate_rank(config(3), layout, BF16, checkpoint=True)
    finally:
        gc.set_threshold(*before)
    assert never == often


def test_what_can_not_be_cut_says_why_and_leaves_no_processes():
    with pytest.raises(ValueError, match="3 processes do not divide the 4 heads of"):
        estimate_rank(config(), MeshLayout(tensor=3), BF16)
    assert not dist.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_planned_memory_is_within_a_tenth_of_the_measured_and_planned_bytes_are_those_that_are_sent(processes):
    found = list(truths(processes=[processes]))
    assert found and not [each.row() for each in found if not each.holds]
