"""The formulas of docs/reports/scaling.md against naive simulations that count every byte that is sent."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.scaling.figures import model_of
from benchmarks.scaling.formulas import (
    Machine,
    Model,
    Plan,
    gathered_bytes,
    memory,
    ring_bytes,
    sharding_bytes,
    step,
    ulysses_bytes,
)
from tests.support.paths import REPORTS, ROOT

SMALL = Model("small", 1000, (300, 400), 10**6, 13 * 10**5, 5000, 900, tokens=96, width=16, attentions=2)
BOX = Machine(flops_per_s=1e6, memory=1e6, inside=1e4, outside=1e3)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_an_all_gather_sends_what_a_simulated_ring_sends(count):
    shard, sent = 24 // count, [0] * count
    held = [{gpu} for gpu in range(count)]
    for turn in range(count - 1):
        passed = [(gpu - turn) % count for gpu in range(count)]
        for gpu, piece in enumerate(passed):
            held[(gpu + 1) % count].add(piece)
            sent[gpu] += shard
    assert all(pieces == set(range(count)) for pieces in held)
    assert sent == [gathered_bytes(24, count)] * count


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_ulysses_sends_what_changes_its_owner(gpus):
    plan = Plan(gpus, sequence=gpus)
    owner_of_token = [n * gpus // SMALL.tokens for n in range(SMALL.tokens)]
    owner_of_feature = [d * gpus // SMALL.width for d in range(SMALL.width)]
    leaving = sum(a == 0 and b != 0 for a in owner_of_token for b in owner_of_feature)
    passes, tensors = 3, 4  # forward, recomputed, backward; q, k, v and the output
    assert ulysses_bytes(SMALL, plan) == leaving * 2 * tensors * passes * SMALL.attentions


@pytest.mark.parametrize("gpus", [2, 4])
def test_a_ring_passes_keys_and_values_on_until_all_have_seen_them(gpus):
    rows = SMALL.tokens // gpus * SMALL.width
    forward = sum(2 * 2 * rows for _ in range(gpus - 1))  # k and v
    backward = sum(2 * 2 * rows + 2 * 4 * rows for _ in range(gpus - 1))  # and their gradients, in float32
    assert ring_bytes(SMALL, Plan(gpus, sequence=gpus)) == (2 * forward + backward) * SMALL.attentions


def test_a_node_sends_by_all_of_its_adapters_what_a_ring_over_nodes_needs():
    inside, outside = sharding_bytes(SMALL, Plan(64), BOX)
    assert inside == 8 * SMALL.parameters * 63 / 64 and outside * BOX.node == inside
    assert sharding_bytes(SMALL, Plan(8), BOX) == (8 * SMALL.parameters * 7 / 8, 0.0)
    assert sharding_bytes(SMALL, Plan(1), BOX) == (0.0, 0.0)
    # HSDP: a node's own reduce-scatter, then a ring all-reduce of one shard over 8 nodes: reduce-scatter and all-gather
    inside, outside = sharding_bytes(SMALL, Plan(64, hybrid=True), BOX)
    assert inside == 8 * SMALL.parameters * 7 / 8 and outside == 2 * (4 * SMALL.parameters / 8) * 7 / 8


def test_memory_and_time_of_one_gpu_are_the_models_own():
    held = memory(SMALL, Plan(1, recompute=False), BOX)
    assert held == {"shard": 16 * 1000, "gathered": 2 * 1000, "activations": 5000}
    assert memory(SMALL, Plan(8), BOX) == {
        "shard": 2000,
        "gathered": 2 * (300 + 800) + 4 * 400,
        "activations": 900 + 5000 // 2,
    }
    alone = step(SMALL, Plan(1), BOX)
    assert alone.overlapped == alone.one_after_the_other == 1.3
    wide = step(SMALL, Plan(64), BOX)
    assert wide.sharding == max(7875 / 1e4, 7875 / 8 / 1e3) and wide.overlapped == max(1.3, wide.sharding)


@pytest.mark.slow
def test_the_document_is_what_the_script_writes():
    command = [sys.executable, "-m", "benchmarks.scaling", "--check", REPORTS / "scaling.md"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_figures_are_those_that_the_commands_print():
    model = model_of("sd3.5-large")
    assert model.parameters == 8_056_627_520 and len(model.blocks) == 38 and model.tokens == 333 + 4096
    assert model.recomputed_flops > model.step_flops and model.activations_recomputed < model.activations
