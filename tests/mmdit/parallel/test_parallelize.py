"""A network on several processes is the same on one: what it gives, gradients and their norm, AdamW, saved weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.parallel.cases import CASES
from benchmarks.parallel.document import BOUND, LAYOUTS
from benchmarks.parallel.equality import Difference
from benchmarks.parallel.several import compare
from mmdit.parallel import MeshLayout

RECOMPUTED = dict(checkpoint_activations=True, offload_activations=True)
SINGLE = dict(dtype=torch.float32)
SMALL = "option: standard"


def hold(cases: list[tuple[str, MeshLayout, dict[str, Any], float]]) -> None:
    found = compare([each[:3] for each in cases], processes=cases[0][1].size)
    wrong = [
        f"{name} on {layout}, {options}: {each}"
        for (name, layout, options, bound), each in zip(cases, found, strict=True)
        if not isinstance(each, Difference) or each.largest > bound
    ]
    assert not wrong, "\n".join(wrong)


def test_two_processes_give_and_learn_what_one_does():
    hold(
        [
            (SMALL, MeshLayout(tensor=2), RECOMPUTED, BOUND),
            (SMALL, MeshLayout(context=2), {}, BOUND),
            (SMALL, MeshLayout(shard=2), SINGLE, 1e-4),  # whose gradients FSDP would average by gloo's own average
        ]
    )


@pytest.mark.slow
def test_two_processes_share_the_tokens_of_a_single_stream():
    hold([("flux.1-dev", MeshLayout(context=2), {}, BOUND)])


@pytest.mark.slow
def test_four_processes_in_bfloat16_sum_gradients_in_float32():
    hold(
        [
            (SMALL, MeshLayout(shard=4), SINGLE, 1e-4),
            (SMALL, MeshLayout(replicate=2, shard=2), SINGLE, 1e-4),
            (SMALL, MeshLayout(shard=4), SINGLE | dict(param_dtype=torch.bfloat16), 0.1),
            (SMALL, MeshLayout(shard=2, tensor=2), SINGLE | dict(param_dtype=torch.bfloat16), 0.1),
        ]
    )


@pytest.mark.slow
def test_recomputed_activations_change_nothing_in_any_layout():
    hold([(name, layout, RECOMPUTED, BOUND) for name in ("sd3.5-medium", "flux.2-dev") for layout in LAYOUTS])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_network_on_four_processes_gives_and_learns_what_one_does(layout):
    hold([(name, layout, {}, BOUND) for name in CASES])
